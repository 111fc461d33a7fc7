"""Charts of the tools, in the style of ``alexnet.curves``: lines over steps or epochs, and a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.curves import COLOURS, canvas, mark_chance, save_png, set_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CYCLE", "Line", "confusion", "draw_lines", "points"]

CYCLE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#7f7f7f")
"""Matplotlib's ten colours, for the settings of a comparison; they can be told apart on white and on black."""
FEW_CLASSES = 20  # up to here, the cells of a confusion matrix have room for numbers
MOST_NAMES = 50  # along an axis


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    style: str = "solid"


def points(rows: Iterable[Mapping[str, Any]], against: str, metric: str) -> list[tuple[float, float]]:
    """The values of a metric against ``step`` or ``epoch``. NaN, a gap in the line, stands for None."""
    return [
        (row[against], math.nan if row[metric] is None else row[metric])
        for row in rows
        if metric in row and row.get(against) is not None
    ]


def draw_lines(ax: Axes, lines: Sequence[Line], against: str, metric: str, classes: int = 0) -> None:
    """Draw a metric of one or several runs against ``step`` or ``epoch``.

    Args:
        lines: at least one, each with at least one point.
        classes: of how many classes the metric is a loss or an accuracy, for the dashed line at chance level.
    """
    for line in lines:
        count = len(line.points)
        width, marker = 1.0 if count > 400 else 1.5, "o" if count <= 40 / len(lines) else ""
        ax.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            label=line.label,
            linestyle=line.style,
            linewidth=width,
            marker=marker,
            markersize=3,
        )
    ax.set_xlabel(against)
    ax.margins(x=0.02)
    set_ticks(ax.xaxis, whole=against == "step" or ax.dataLim.xmax >= 4, thousands=against == "step")
    if ax.dataLim.width == 0:
        ax.set_xticks([ax.dataLim.x0])
    set_ticks(ax.yaxis, whole=False, thousands=ax.dataLim.ymax >= 1000)
    is_loss, is_accuracy = metric.endswith("loss"), metric.endswith("acc")
    if classes > 1 and (is_loss or is_accuracy):
        mark_chance(ax, classes, is_loss=is_loss)
    if not is_loss and metric != "grad_norm":
        ax.set_ylim(0, 1.06 * ax.dataLim.ymax or 1)
    if any(line.label for line in lines):
        ax.legend(frameon=False, loc="best" if classes else "upper right")


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> Path:
    """Draw a confusion matrix as a PNG file and return its path. Cells are shares of the true class, in percent.

    Args:
        matrix: ``matrix[i][j]`` is the number of images of class ``i`` that were predicted as class ``j``.
        classes: the class names, in the matrix's order.

    Raises:
        ValueError: the matrix does not have one row and one column for each class.
    """
    count = len(classes)
    if count == 0 or len(matrix) != count or any(len(row) != count for row in matrix):
        shape = [len(matrix), *sorted({len(row) for row in matrix})]
        raise ValueError(f"matrix must have {count} rows and columns, one for each class, got {shape}")
    import numpy as np

    counts = np.asarray(matrix)
    total, right = int(counts.sum()), int(np.trace(counts))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = count <= FEW_CLASSES
    side = max(3.6, 0.48 * count) if few else 8.0
    with canvas(side + 2.2, side + 1.4, layout="compressed") as figure:
        ax = figure.subplots()
        ax.grid(False)
        picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        for i, j in np.argwhere(shares >= 0.5) if few else ():
            colour = "white" if shares[i, j] > 50 else COLOURS["ink"]
            ax.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
        places = range(0, count, math.ceil(count / MOST_NAMES))
        names = [classes[place].encode("utf-8", "replace").decode() for place in places]
        names = [name if len(name) <= 20 else f"{name[:11]}…{name[-8:]}" for name in names]
        size = 9.5 if few else 7
        ax.set_xticks(places, names, rotation=90, fontsize=size)
        ax.set_yticks(places, names, fontsize=size)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"{right:,} of {total:,} images right" + (f" ({100 * right / total:.1f}%)" if total else ""))
        ax.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03, label="share of the true class (%)")
        return save_png(figure, Path(path))
