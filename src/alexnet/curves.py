"""``curves.png``: the six curves of a run, and the style that all charts of this project share.

Drawn on matplotlib's Agg canvas and from its default settings, so that no window opens and a user's matplotlibrc has no
effect. The same rows give the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.checkpoint import read_rows, write_atomically
from alexnet.tracking import Callback, RunInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS", "CURVES", "Curves", "Line", "canvas", "draw_curves", "draw_lines", "mark_chance", "points", "save_png",
    "set_ticks",
]  # fmt: skip

CURVES = "curves.png"
COLOURS = {
    "ink": "#24292f", "soft": "#6b7280", "grid": "#e7e9ec", "edge": "#b9bec6",
    "train": "#2f6690", "validation": "#c0562f", "other": "#4b5563",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a class may be called "$5"
    "axes.edgecolor": COLOURS["edge"],
    "axes.labelcolor": COLOURS["soft"],
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
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
}
# metric, x axis, colour, label of the y axis
PANELS = (
    ("train_loss", "step", "train", "cross-entropy (nats)"),
    ("val_loss", "step", "validation", "cross-entropy (nats)"),
    ("step", "epoch", "other", "step (batches)"),
    ("train_acc", "step", "train", "top-1 accuracy (%)"),
    ("val_acc", "step", "validation", "top-1 accuracy (%)"),
    ("epoch_val_acc", "epoch", "validation", "top-1 accuracy (%)"),
)
FEW_POINTS = 40  # up to here every point gets a dot, because a single row would draw no line


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    style: str = "solid"


class Curves(Callback):
    """Draws ``curves.png`` when a run ends, unless it failed."""

    def start(self, run: RunInfo) -> None:
        self.folder, self.classes = run.folder, run.num_classes

    def end(self, summary: Mapping[str, float], state: str) -> None:
        if state != "failed":
            draw_curves(self.folder, self.classes)


def draw_curves(folder: Path, classes: int = 0) -> Path:
    """Draw the six curves of ``folder/metrics.jsonl`` as ``folder/curves.png``, 1200×760 pixels; return its path.

    Args:
        classes: number of classes, for the dashed lines at chance level.
    """
    rows = read_rows(folder)
    with canvas(12, 7.6) as figure:
        axes = figure.subplots(2, 3).flatten()
        for (metric, against, colour, label), ax in zip(PANELS, axes, strict=True):
            ax.set_title(metric)
            ax.set_ylabel(label)
            found = points(rows, against, metric)
            draw_lines(ax, [Line(found, COLOURS[colour])] if found else [], against, metric, classes)
            if metric != "step" and (finite := [point for point in found if not math.isnan(point[1])]):
                at, value = finite[-1]
                last = f"{value:.3f}" if metric.endswith("loss") else f"{value:.1f}%"
                last += f" at {against} {at:,}" if against == "step" else f" at {against} {at:.4g}"
                ax.set_title(last, loc="right", fontsize=9, color=COLOURS["soft"], fontweight="normal")
        _share_scale(axes[:2])
        _share_scale(axes[3:])
        name = folder.resolve().name.encode("utf-8", "replace").decode()  # a file name may be invalid text
        figure.suptitle(name, x=0.012, ha="left", fontsize=13, fontweight="bold")
        return save_png(figure, folder / CURVES)


def points(rows: Iterable[Mapping[str, Any]], against: str, metric: str) -> list[tuple[float, float]]:
    """The values of a metric against ``step`` or ``epoch``. NaN, a gap in the line, stands for None."""
    return [(row[against], math.nan if row[metric] is None else row[metric]) for row in rows if metric in row]


def draw_lines(ax: Axes, lines: Sequence[Line], against: str, metric: str, classes: int = 0) -> None:
    """Draw a metric of one or several runs against ``step`` or ``epoch``.

    Args:
        lines: each with at least one point; without lines, the chart says that there are no rows yet.
        classes: of how many classes the metric is a loss or an accuracy, for the dashed line at chance level.
    """
    ax.set_xlabel("step (batches)" if against == "step" else against)
    if not lines:
        ax.text(0.5, 0.5, "no rows yet", transform=ax.transAxes, ha="center", va="center", color=COLOURS["soft"])
        ax.set(xticks=[], yticks=[])
        return
    for line in lines:
        count = len(line.points)
        ax.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            label=line.label,
            linestyle=line.style,
            linewidth=1.0 if count > 400 else 1.6,
            marker="o" if count <= FEW_POINTS / len(lines) else "",
            markersize=3.5,
        )
    ax.margins(x=0.02)
    places = {x for line in lines for x, _ in line.points}
    set_ticks(ax.xaxis, whole=against == "step" or max(places) >= 4, thousands=against == "step")
    if len(places) == 1:
        ax.set_xticks(list(places))  # else the same value at every tick
    set_ticks(ax.yaxis, whole=metric == "step", thousands=metric == "step" or ax.get_ylim()[1] >= 1000)
    is_loss, is_accuracy = metric.endswith("loss"), metric.endswith("acc")
    if classes > 1 and (is_loss or is_accuracy):
        mark_chance(ax, classes, is_loss=is_loss)
    if not is_loss and metric != "grad_norm":
        ax.set_ylim(0, max(ax.get_ylim()[1], 1.02 * ax.dataLim.y1))  # a constant line would lie on the edge
    if any(line.label for line in lines):
        ax.legend(frameon=False, loc="best" if classes else "upper right")


def mark_chance(ax: Axes, classes: int, *, is_loss: bool) -> None:
    """Draw a dashed line at the loss or the accuracy of guessing among ``classes``."""
    level = math.log(classes) if is_loss else 100 / classes
    bottom, top = ax.get_ylim()
    is_below = is_loss and level > bottom + 0.1 * (top - bottom)  # on the side away from the end of the curve
    ax.axhline(level, color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
    ax.annotate(
        f"ln {classes} = {level:.2f}" if is_loss else f"chance {level:.3g}%",
        xy=(1, level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -3 if is_below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if is_below else "bottom",
        fontsize=8.5,
        color=COLOURS["soft"],
    )


def set_ticks(axis: Axis, *, whole: bool, thousands: bool) -> None:
    """Few round tick values; only ``whole`` numbers, with commas between ``thousands``."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=whole))
    if thousands:
        axis.set_major_formatter("{x:,.0f}")


def _share_scale(axes: Iterable[Axes]) -> None:
    drawn = [ax for ax in axes if ax.lines]
    for ax in drawn:
        ax.set_ylim(min(each.get_ylim()[0] for each in drawn), max(each.get_ylim()[1] for each in drawn))


@contextmanager
def canvas(width: float, height: float, layout: str = "constrained") -> Iterator[Figure]:
    """A figure of ``width`` × ``height`` inches, 100 pixels each, in this project's style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")  # type: ignore[arg-type]
        FigureCanvasAgg(figure)
        yield figure


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure with a palette of 256 colours, which takes a third of the bytes."""
    from PIL import Image

    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as boxes
        figure.savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    write_atomically(path, lambda file: picture.save(file, format="PNG", optimize=True))
    return path
