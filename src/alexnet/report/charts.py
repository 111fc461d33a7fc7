"""The curves of a report: of one run, of several over one another. SVG that follows its page from light to dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from alexnet.report.html import inline_svg
from alexnet.report.plots import CSS, canvas, chance, ticks
from alexnet.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Chart", "of_run", "of_several", "place_in_cycle"]

# matplotlib's colour for a line, and the page's name for it; dashes where these are used up. --c1 and its like stand in
# the page's style; they differ in lightness too, for those who see colours otherwise, and on paper.
_CYCLE = {f"#0101{number:02x}": f"var(--c{number + 1})" for number in range(8)}
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
_TRAIN, _VALIDATION, _SOFT = "#2f6690", "#c0562f", "#6b7280"
_MANY_POINTS = 400  # from here a line is thin


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    """CSS colour and what is drawn in it."""


# Title, unit and the lines: key, colour, what to call it.
_RUN = (
    ("Loss", "nats", (("train_loss", _TRAIN, "training"), ("val_loss", _VALIDATION, "validation"))),
    ("Accuracy", "top-1 (%)", (("train_acc", _TRAIN, "training"), ("val_acc", _VALIDATION, "validation"))),
    ("Learning rate", "", (("lr", _TRAIN, ""),)),
    ("Gradient norm", "before clipping", (("grad_norm", _TRAIN, ""),)),
    ("Speed", "images a second", (("images_per_sec", _TRAIN, ""),)),
    ("Waiting for data", "share of a step (%)", (("data_wait_pct", _TRAIN, ""),)),
)
_SEVERAL = (
    ("val_acc", "Validation accuracy", "top-1 (%)"),
    ("val_loss", "Validation loss", "cross-entropy (nats)"),
    ("train_acc", "Training accuracy", "top-1 (%)"),
    ("train_loss", "Training loss", "cross-entropy (nats)"),
)


def of_run(record: Record) -> list[Chart]:
    """The curves that the run has rows for, against the step, with a line where it was resumed."""
    charts: list[Chart] = []
    for title, unit, lines in _RUN:
        drawn = [(_points(record.rows, "step", key), colour, label) for key, colour, label in lines]
        drawn = [line for line in drawn if line[0]]
        if not drawn:
            continue
        with canvas(4.6, 3.0) as figure:
            ax = figure.subplots()
            for points, colour, _ in drawn:
                _line(ax, points, colour)
            for step in record.resumed_at:
                ax.axvline(step, color=_SOFT, linewidth=0.9, linestyle=(0, (1.5, 2)), zorder=1)
            _dress(ax, "step", lines[0][0], record.classes)
            last = max(points[-1][0] for points, _, _ in drawn)
            label = f"{title} against the step, up to step {last:,}; {_ends(drawn)}"
            svg = inline_svg(figure, f"run-{len(charts)}", label, CSS)
        legend = tuple((CSS[colour], label) for _, colour, label in drawn if label)
        charts.append(Chart(title, unit, svg, legend))
    return charts


def place_in_cycle(number: int) -> tuple[str, int]:
    """The CSS colour of the setting so numbered, from 0, and how often the colours were used up before it."""
    return f"var(--c{number % len(_CYCLE) + 1})", number // len(_CYCLE)


def of_several(groups: Sequence[Sequence[Record]]) -> list[Chart]:
    """The curves of several settings over one another, against the epoch: a colour a setting, a line a seed."""
    colours = list(_CYCLE)
    counts = {record.classes for group in groups for record in group}
    classes = counts.pop() if len(counts) == 1 else None
    charts: list[Chart] = []
    for key, title, unit in _SEVERAL:
        lines = [
            (points, colours[number % len(colours)], _DASHES[number // len(colours) % len(_DASHES)])
            for number, group in enumerate(groups)
            for record in group
            if (points := _points(record.rows, "epoch", key))
        ]
        if not lines:
            continue
        with canvas(5.2, 3.3) as figure:
            ax = figure.subplots()
            for points, colour, dashes in lines:
                _line(ax, points, colour, dashes, width=1.2, dots=12)
            _dress(ax, "epoch", key, classes)
            svg = inline_svg(figure, f"several-{len(charts)}", f"{title} of {len(lines)} runs", CSS | _CYCLE)
        charts.append(Chart(title, unit, svg))
    return charts


def _points(rows: Iterable[dict[str, Any]], against: str, key: str) -> list[tuple[float, float]]:
    """Where ``key`` was logged; NaN, a gap in the line, where it was not a number."""
    return [
        (row[against], math.nan if row[key] is None else row[key])
        for row in rows
        if key in row and row.get(against) is not None
    ]


def _line(
    ax: Axes, points: list[tuple[float, float]], colour: str, dashes: Any = "solid", width: float = 1.7, dots: int = 40
) -> None:
    ax.plot(
        *zip(*points, strict=True),
        color=colour,
        linestyle=dashes,
        linewidth=1.0 if len(points) > _MANY_POINTS else width,
        marker="o" if len(points) <= dots else "",
        markersize=3.0,
    )


def _dress(ax: Axes, against: str, key: str, classes: int | None) -> None:
    """Axes, and what guessing among the classes would give."""
    ax.margins(x=0.02)
    ticks(ax.xaxis, whole=against == "step" or ax.get_xlim()[1] >= 4, thousands=against == "step")
    ticks(ax.yaxis, whole=False, thousands=ax.get_ylim()[1] >= 1000)
    ax.set_xlabel(against)
    loss, accuracy = key.endswith("loss"), key.endswith("acc")
    if classes and (loss or accuracy):
        chance(ax, classes, loss=loss)
    if not loss and key != "grad_norm":
        ax.set_ylim(0, 1.06 * ax.dataLim.ymax or 1)


def _ends(drawn: Iterable[tuple[list[tuple[float, float]], str, str]]) -> str:
    return ", ".join(f"{label} ends at {points[-1][1]:.4g}".strip() for points, _, label in drawn)
