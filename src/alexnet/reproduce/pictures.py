"""The picture of a record: a dot a run for each arm, or errors over epochs as in the paper's figure 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.report.plots import canvas, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

FIRST, SECOND, SOFT = "#2f6690", "#c0562f", "#6b7280"


def draw(record: Mapping[str, Any], path: Path) -> Path:
    """Draw ``record`` into ``path``, a PNG, and return it."""
    return _values(record, path) if record["chart"] == "values" else _curves(record, path)


def _values(record: Mapping[str, Any], path: Path) -> Path:
    arms = record["arms"]
    with canvas(8, 1.6 + 0.42 * len(arms)) as figure:
        ax = figure.subplots()
        for place, arm in enumerate(arms):
            known = [value for value in arm["values"] if value is not None]
            ax.plot(known, [place] * len(known), "o", color=FIRST, alpha=0.55, markersize=6, markeredgewidth=0)
            if arm["mean"] is not None:
                ax.plot([arm["mean"]] * 2, [place - 0.28, place + 0.28], color=FIRST, linewidth=2)
        ax.set_yticks(range(len(arms)), [arm["name"] for arm in arms])
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_xlabel(f"{record['measure']}; a dot is a run, a bar the mean")
        ax.set_title(f"{record['experiment']}: {record['verdict']}")
        return save(figure, path)


def _curves(record: Mapping[str, Any], path: Path) -> Path:
    """A panel for every two arms: errors or losses over epochs, the first arm solid and the second dashed."""
    arms = record["arms"]
    pairs = [arms[i : i + 2] for i in range(0, len(arms), 2)]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    with canvas(5.2 * columns, 0.8 + 3.4 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, pair in zip(axes, pairs, strict=False):
            _panel(ax, pair, losses=record["chart"] == "losses")
        for ax in axes[len(pairs) :]:
            ax.set_visible(False)
        figure.suptitle(f"{record['experiment']}: {record['verdict']}", x=0.012, ha="left", fontsize=13)
        return save(figure, path)


def _panel(ax: Axes, pair: Sequence[Mapping[str, Any]], *, losses: bool) -> None:
    # what the names of both arms begin with is the title, the rest of each names its lines
    words = [arm["name"].split(", ") for arm in pair]
    shared = [word for word in words[0] if all(word in other for other in words)]
    train, test = (1, 3) if losses else (2, 4)  # columns of a curve
    tested = any(row[test] is not None for arm in pair for curve in arm["curves"] for row in curve)
    for arm, own, colour, style in zip(pair, words, (FIRST, SECOND), ("-", (0, (5, 2))), strict=False):
        rate = arm["settings"].get("rate")
        label = ", ".join(word for word in own if word not in shared) + (f", rate {rate:g}" if rate else "")
        for column, what, width in ((train, "training", 1.5), (test, "test", 0.8)):
            for number, curve in enumerate(arm["curves"]):
                points = [(row[0], row[column]) for row in curve if row[column] is not None]
                if points:
                    ax.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=width, alpha=0.8,
                            label=(f"{label}: {what}" if tested else label) if number == 0 else None)  # fmt: skip
        if not losses and arm["settings"].get("stop_at"):
            ax.axhline(arm["settings"]["stop_at"], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_title(", ".join(shared))
    ax.set_xlabel("epochs")
    ax.set_ylabel(("" if tested else "training ") + ("cross-entropy (nats)" if losses else "error (%)"))
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    ax.legend(frameon=False)
