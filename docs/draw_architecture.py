"""Draw architecture.svg: the classic network, counted from the modules by ``alexnet.tools.summary``.

python docs/draw_architecture.py [FILE]      writes docs/architecture.svg; the same bytes each time

Sides of maps, numbers of maps and of units are drawn to their square roots. Coordinates are pixels of a picture that
is 900 wide.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from torch import nn

from alexnet.model import AlexNet_2012
from alexnet.tools.summary import summarize

HERE = Path(__file__).parent
WIDTH, HEIGHT = 900, 450
AXIS = 287  # height of the line along which the signal flows
LEFT, STEP = 14, 87.2  # columns
SLANT = (0.30, 0.22)  # how a side that recedes goes right and up, as parts of its length

INK, FAINT = "#1f2937", "#6b7280"
MAPS = ("#dbeafe", "#bfdbfe", "#93c5fd", "#3b82f6")  # front, top, side, edge
IMAGE = ("#f3f4f6", "#e5e7eb", "#d1d5db", "#6b7280")
UNITS = ("#fef3c7", "#fde68a", "#fcd34d", "#d97706")
WINDOW = "#dc2626"
CHIPS = {
    "ReLU": ("#ccfbf1", "#115e59"),
    "LRN": ("#ede9fe", "#5b21b6"),
    "max pool": ("#dbeafe", "#1e40af"),
    "dropout": ("#ffedd5", "#9a3412"),
}
BARS = {"parameters": "#fde68a", "multiply-adds": "#bfdbfe"}


@dataclass
class Column:
    """One volume or row of units, with what makes it and what follows it."""

    name: str
    shape: list[int]
    made_by: str = ""
    window: float = 0.0
    """Side of the next layer's filters, as a part of the side of what they look at."""
    parameters: int = 0
    multiply_adds: int = 0
    chips: list[str] = field(default_factory=list)


def columns() -> list[Column]:
    """The input, each layer with weights, and what the fully connected layers start from."""
    with torch.device("meta"):
        modules = dict(AlexNet_2012(10).named_modules())
    found = [Column("input", [3, 224, 224], "RGB, 0..255\nminus the mean")]
    side = 224  # of the maps that the next layer sees
    for layer in summarize("classic", 10)["layers"]:
        name, kind, counts = layer["name"], layer["type"], (layer["parameters"], layer["multiply_adds"])
        if kind == "Conv2d":
            conv = modules[f"features.{name}"]
            assert isinstance(conv, nn.Conv2d)
            filters, stride = conv.kernel_size[0], conv.stride[0]
            found[-1].window = filters / side
            step = f"stride {stride}, " if stride > 1 else ""
            made = f"{filters}×{filters} filters\n{step}pad {conv.padding[0]}"
            found.append(Column(name, layer["output"], made, 0, *counts))
        elif kind == "Linear":
            linear = modules[f"classifier.{name}"]
            assert isinstance(linear, nn.Linear)
            found.append(Column(name, layer["output"], f"{linear.in_features}\nto {linear.out_features}", 0, *counts))
        else:
            chip = {"ReLU": "ReLU", "ResponseNorm": "LRN", "MaxPool2d": "max pool", "Dropout": "dropout"}[kind]
            found[-1].chips.append(chip)
        if name == "pool5":
            found.append(Column("features", layer["output"], f"flattened\nto {math.prod(layer['output'])}"))
        side = layer["output"][-1]
    return found


def size_of(column: Column) -> tuple[float, float]:
    """Width and height on the page of the front face."""
    if len(column.shape) == 1:
        return 11, 2.5 * math.sqrt(column.shape[0])
    maps, side = column.shape[:2]
    return 2.7 * math.sqrt(maps), 10.5 * math.sqrt(side)


def draw_box(axes: Axes, x: float, width: float, height: float, depth: float, colours: tuple[str, ...]) -> None:
    """A box whose front face is centred on the axis of flow at ``x``."""
    front, top, side, edge = colours
    dx, dy = SLANT[0] * depth, SLANT[1] * depth
    left, right, low, high = x - width / 2, x + width / 2, AXIS - height / 2, AXIS + height / 2
    faces = [
        (side, [(right, low), (right + dx, low + dy), (right + dx, high + dy), (right, high)]),
        (top, [(left, high), (left + dx, high + dy), (right + dx, high + dy), (right, high)]),
        (front, [(left, low), (right, low), (right, high), (left, high)]),
    ]
    for colour, corners in faces:
        axes.add_patch(
            Polygon(corners, closed=True, facecolor=colour, edgecolor=edge, linewidth=0.8, joinstyle="round")
        )


def draw_window(axes: Axes, column: Column, x: float, to: tuple[float, float]) -> None:
    """The next layer's filter on the far side of the volume, and the lines to the one value it gives."""
    width, height = size_of(column)
    share = max(column.window, 0.16)  # below that it would be a dot
    right = x + width / 2
    at = height * (0.5 - share / 2)

    def on_face(along: float, up: float) -> tuple[float, float]:
        return right + SLANT[0] * along, AXIS - height / 2 + SLANT[1] * along + up

    near, far = at, at + height * share
    corners = [on_face(near, near), on_face(far, near), on_face(far, far), on_face(near, far)]
    for corner in corners:
        axes.plot(*zip(corner, to, strict=True), color=WINDOW, linewidth=0.5, alpha=0.7, zorder=3)
    axes.add_patch(Polygon(corners, closed=True, facecolor="#fecaca", edgecolor=WINDOW, linewidth=0.8, zorder=4))


def draw_chip(axes: Axes, x: float, y: float, text: str) -> None:
    width, height = 62, 15.5
    fill, ink = CHIPS[text]
    style = "round,pad=0,rounding_size=4"
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, style, facecolor=fill, linewidth=0))
    axes.text(x, y - 0.5, text, color=ink, fontsize=9.5, ha="center", va="center_baseline")


def short(number: int) -> str:
    for unit, factor in (("M", 1e6), ("K", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return str(number)


def draw(file: Path) -> None:
    """Write the picture: SVG with the same bytes each time, or what else the file's ending says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"svg.hashsalt": "alexnet-2012", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
        )
        figure = compose()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def compose() -> Figure:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.axis("off")
    found, summary = columns(), summarize("classic", 10)
    places = [LEFT + STEP * (i + 0.5) for i in range(len(found))]
    axes.text(LEFT + 4, 426, "AlexNet (2012), classic", fontsize=15, weight="bold", color=INK)
    counted = (
        f"{summary['parameters']:,} parameters for 10 classes, {summary['multiply_adds'] / 1e9:.2f} G multiply-adds"
    )
    axes.text(LEFT + 208, 426, f"{counted} an image", fontsize=10.5, color=FAINT)
    for number, (column, place) in enumerate(zip(found, places, strict=True)):
        draw_column(axes, found, places, number)
        draw_words(axes, column, place)
    draw_counts(axes, found, places)
    norm = "LRN: n = 5, α = 10⁻⁴ divided by n, β = 0.75, k = 2      max pool: 3×3, stride 2      dropout: p = 0.5"
    axes.text(LEFT + 4, 12, norm, fontsize=9.5, color=FAINT)
    return figure


def draw_column(axes: Axes, found: list[Column], places: list[float], number: int) -> None:
    column = found[number]
    width, height = size_of(column)
    flat = len(column.shape) == 1
    depth = 24 if flat else height
    shift = SLANT[0] * depth / 2  # the receding side counts for the column's middle
    x = places[number] - shift
    colours = UNITS if flat else MAPS if number else IMAGE
    draw_box(axes, x, width, height, depth, colours)
    shape = "×".join(map(str, column.shape))
    axes.text(places[number], AXIS + height / 2 + SLANT[1] * depth + 7, shape, fontsize=10, ha="center", color=INK)
    if number + 1 == len(found):
        return
    following = found[number + 1]
    next_width, _ = size_of(following)
    next_depth = 24 if len(following.shape) == 1 else size_of(following)[1]
    start = places[number + 1] - SLANT[0] * next_depth / 2 - next_width / 2
    if column.window:
        draw_window(axes, column, x, (start + 5, AXIS))
    else:
        arrow = {"arrowstyle": "-|>", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
        axes.annotate("", (start - 3, AXIS), (x + width / 2 + SLANT[0] * depth + 3, AXIS), arrowprops=arrow)


def draw_words(axes: Axes, column: Column, x: float) -> None:
    axes.text(x, 178, column.name, fontsize=12, weight="bold", ha="center", color=INK)
    axes.text(x, 172, column.made_by, fontsize=9.5, ha="center", va="top", color=FAINT, linespacing=1.15)
    for row, chip in enumerate(column.chips):
        draw_chip(axes, x, 133 - 19 * row, chip)


def draw_counts(axes: Axes, found: list[Column], places: list[float]) -> None:
    """Two rows of numbers, each before a bar of its share of the row's largest."""
    rows = {"parameters": [c.parameters for c in found], "multiply-adds": [c.multiply_adds for c in found]}
    for y, (name, counts) in zip((68, 44), rows.items(), strict=True):
        axes.text(places[0], y, name, fontsize=10, color=FAINT, ha="center", va="center_baseline")
        for x, count in zip(places, counts, strict=True):
            if count:
                length = 76 * count / max(counts)
                axes.add_patch(Rectangle((x - 38, y - 9), length, 18, facecolor=BARS[name], linewidth=0))
                axes.text(x, y, short(count), fontsize=10, ha="center", va="center_baseline", color=INK)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "architecture.svg")
