"""Pictures of a run: the six curves, and a confusion matrix.

Drawn with matplotlib's objects onto its Agg canvas, so that no window, no backend and no global figure is touched,
and from matplotlib's own defaults, so that a user's matplotlibrc changes nothing. The same figures give the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alexnet.files import write_atomically
from alexnet.run.tracking import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["CSS", "CURVES", "canvas", "chance", "confusion", "curves", "save", "ticks"]

_INK, _SOFT, _GRID, _EDGE = "#24292f", "#6b7280", "#e7e9ec", "#b9bec6"
_TRAIN, _VALIDATION, _OTHER = "#2f6690", "#c0562f", "#4b5563"
# For `html.inline_svg`: the names that a page has for these colours, where it is light and where it is dark.
CSS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _GRID: "var(--grid)",
    _EDGE: "var(--edge)",
    _TRAIN: "var(--accent)",
    _VALIDATION: "var(--second)",
    _OTHER: "var(--soft)",
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _INK,
    "text.parse_math": False,  # a class may be called "$5"
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}

# Key, its axis, its colour and what is written up the side; in reading order.
_PANELS = (
    ("train_loss", "step", _TRAIN, "cross-entropy (nats)"),
    ("val_loss", "step", _VALIDATION, "cross-entropy (nats)"),
    ("step", "epoch", _OTHER, "step (batches)"),
    ("train_acc", "step", _TRAIN, "top-1 accuracy (%)"),
    ("val_acc", "step", _VALIDATION, "top-1 accuracy (%)"),
    ("epoch_val_acc", "epoch", _VALIDATION, "top-1 accuracy (%)"),
)
_X_LABELS = {"step": "step (batches)", "epoch": "epoch (passes over the training images)"}

_FEW_POINTS = 40  # up to here every point gets a dot: one row would draw no line
CURVES = "curves.png"
_MANY_POINTS = 400  # from here the line is thin
_FEW_EPOCHS = 4  # from here epochs are counted in whole ones
_CELL_COUNTS = 20  # classes; above it the numbers in the cells would not be readable
# Steps of colour, narrow where the mistakes are: one of 5% would hardly show on an even scale beside 90% right.
_SHARES = (0, 1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
_TICK_LABELS = 50  # names along an axis, at most


def curves(folder: Path) -> Path:
    """Draws the six charts of ``folder/metrics.jsonl`` into ``folder/curves.png`` (1200×760 pixels); returns its path.

    The losses and accuracies stand against the step, ``epoch_val_acc`` and the step itself against the epoch. Where
    ``folder/config.json`` lists ``classes``, faint lines show what guessing would give.

    Raises:
        FileNotFoundError: the folder has no ``metrics.jsonl``.
        ValueError: a line of it is broken.
    """
    folder = Path(folder)
    rows = read_rows(folder)
    classes = _class_count(folder)
    with canvas(12, 7.6) as figure:
        axes = figure.subplots(2, 3).flatten()
        for panel, ax in zip(_PANELS, axes, strict=True):
            _panel(ax, rows, *panel, classes)
        # One scale for what is compared: the losses with each other, and the accuracies.
        _share_scale([axes[0], axes[1]])
        _share_scale([axes[3], axes[4], axes[5]], bottom=0.0)
        figure.suptitle(_text(folder.resolve().name), x=0.012, ha="left", fontsize=13, fontweight="bold")
        return save(figure, folder / CURVES)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> Path:
    """Draws a confusion matrix into ``path`` (a PNG file) and returns it.

    Args:
        matrix: counts; ``matrix[i][j]`` images of class ``i`` were taken for class ``j``. Colours are shares of a row,
            so that a class with few images is as visible as one with many.
        classes: the classes' names, in the matrix's order.

    Raises:
        ValueError: the matrix is not square, or has not one row a class.
    """
    count = len(classes)
    if count == 0 or len(matrix) != count or any(len(row) != count for row in matrix):
        widths = sorted({len(row) for row in matrix})
        raise ValueError(
            f"a confusion matrix of {count} classes has {count}×{count} counts; got {len(matrix)}×{widths}"
        )
    from matplotlib.colors import BoundaryNorm

    totals = [sum(row) for row in matrix]
    shares = [[100 * cell / total if total else 0.0 for cell in row] for row, total in zip(matrix, totals, strict=True)]
    counted = count <= _CELL_COUNTS
    side = max(3.6, 0.44 * count) if counted else 8.0
    with canvas(side + 2.4, side + 1.4, layout="compressed") as figure:
        ax = figure.subplots()
        ax.grid(False)
        picture = ax.imshow(shares, cmap="Blues", norm=BoundaryNorm(_SHARES, 256), interpolation="nearest")
        if counted:
            _write_counts(ax, matrix, shares)
        _name_classes(ax, classes, room=100 * side / count)
        right = sum(matrix[i][i] for i in range(count))
        share = f" ({100 * right / sum(totals):.1f}%)" if sum(totals) else ""
        ax.set_title(f"{right:,} of {sum(totals):,} images right{share}")
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")
        bar = figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03, ticks=_SHARES)
        bar.set_label("share of the true class (%)")
        bar.outline.set_visible(False)  # type: ignore[operator]
        return save(figure, Path(path))


def _panel(
    ax: Axes, rows: list[dict[str, Any]], key: str, against: str, colour: str, unit: str, classes: int | None
) -> None:
    points = [(row[against], row[key]) for row in rows if key in row and row.get(against) is not None]
    # None was NaN or infinite: a gap in the line.
    x = [point[0] for point in points]
    y = [math.nan if point[1] is None else point[1] for point in points]
    ax.set_title(key)
    ax.set_xlabel(_X_LABELS[against])
    ax.set_ylabel(unit)
    if not points:
        ax.text(0.5, 0.5, "no rows yet", transform=ax.transAxes, ha="center", va="center", color=_SOFT)
        ax.set(xticks=[], yticks=[])
        return
    marker = "o" if len(points) <= _FEW_POINTS else ""
    ax.plot(x, y, color=colour, linewidth=1.0 if len(points) > _MANY_POINTS else 1.7, marker=marker, markersize=3.5)
    ax.margins(x=0.02)
    ticks(ax.xaxis, whole=against == "step" or max(x) >= _FEW_EPOCHS, thousands=against == "step")
    ticks(ax.yaxis, whole=key == "step", thousands=key == "step")
    if key == "step":
        return
    _last(ax, x, y, against, "{:.3f}" if key.endswith("loss") else "{:.1f}%")
    if classes:
        chance(ax, classes, loss=key.endswith("loss"))


def ticks(axis: Axis, whole: bool, thousands: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=whole))
    if thousands:
        axis.set_major_formatter("{x:,.0f}")


def _last(ax: Axes, x: list[float], y: list[float], against: str, form: str) -> None:
    """The last value, the result of the run, and where it was, at the right end of the title line."""
    finite = [(value, at) for at, value in zip(x, y, strict=True) if not math.isnan(value)]
    if not finite:
        return
    value, at = finite[-1]
    place = f"{at:,}" if against == "step" else f"{at:.4g}"
    text = f"{form.format(value)} at {against} {place}"
    ax.set_title(text, loc="right", fontsize=9, color=_SOFT, fontweight="normal")


def chance(ax: Axes, classes: int, loss: bool) -> None:
    """A faint line where guessing among the classes stands."""
    level = math.log(classes) if loss else 100 / classes
    text = f"ln {classes} = {level:.2f}" if loss else f"chance {level:.3g}%"
    ax.axhline(level, color=_SOFT, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
    ax.annotate(
        text,
        xy=(1, level),
        xycoords=("axes fraction", "data"),
        # On the side that the curve has left by the end.
        xytext=(-2, -3 if loss else 3),
        textcoords="offset points",
        ha="right",
        va="top" if loss else "bottom",
        fontsize=8.5,
        color=_SOFT,
    )


def _share_scale(axes: list[Axes], bottom: float | None = None) -> None:
    drawn = [ax for ax in axes if ax.lines]
    if not drawn:
        return
    low = min(ax.get_ylim()[0] for ax in drawn) if bottom is None else bottom
    high = max(ax.get_ylim()[1] for ax in drawn)
    for ax in drawn:
        ax.set_ylim(low, high + 0.03 * (high - low))


def _write_counts(ax: Axes, matrix: Sequence[Sequence[int]], shares: list[list[float]]) -> None:
    for i, row in enumerate(matrix):
        for j, cell in enumerate(row):
            # Zeros would hide the mistakes among them.
            if cell:
                colour = "white" if shares[i][j] > 35 else _INK
                ax.text(j, i, f"{cell:,}", ha="center", va="center", fontsize=8.5, color=colour)


def _name_classes(ax: Axes, classes: Sequence[str], room: float) -> None:
    """Names along both axes: as many as fit, long ones without their middle. ``room`` is a cell's width in pixels."""
    every = math.ceil(len(classes) / _TICK_LABELS)
    places = range(0, len(classes), every)
    shown = [_text(classes[place]) for place in places]
    names = [name if len(name) <= 20 else f"{name[:11]}…{name[-8:]}" for name in shown]
    small = len(places) > _CELL_COUNTS
    # A character is about eight pixels wide.
    rotation = 90 if small else 45 if 8 * max(map(len, names)) > room else 0
    ax.set_xticks(places, names, rotation=rotation, fontsize=7 if small else 9.5)
    ax.set_yticks(places, names, fontsize=7 if small else 9.5)
    if rotation == 45:
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _text(name: str) -> str:
    """A name as matplotlib takes it: each byte of a file's name that is no valid text becomes ``?``."""
    return name.encode("utf-8", "replace").decode()


def _class_count(folder: Path) -> int | None:
    """How many classes ``config.json`` lists; None where it does not say."""
    try:
        classes = json.loads((folder / "config.json").read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return len(classes) if isinstance(classes, list) and len(classes) > 1 else None


@contextmanager
def canvas(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Iterator[Figure]:
    """A figure of so many inches, 100 pixels each, in the house style while the block lasts."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture with a palette of 256 colours: a third of the bytes, and no difference to be seen."""
    from PIL import Image

    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; a line of warning for each letter helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    # What matplotlib wrote into the file (its version) is left out: the bytes depend on the figures alone.
    write_atomically(path, lambda file: picture.save(file, format="PNG", optimize=True))
    return path
