"""A confusion matrix as a picture, in the style of ``alexnet.curves``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet.curves import COLOURS, canvas, save_png

__all__ = ["confusion"]

FEW_CLASSES = 20  # up to here, the cells of a confusion matrix have room for numbers
MOST_NAMES = 50  # along an axis


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
        ax.set_title(f"{right:,} of {total:,} images correct" + (f" ({100 * right / total:.1f}%)" if total else ""))
        ax.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03, label="share of the true class (%)")
        return save_png(figure, Path(path))
