"""Tensors as small pictures. What is positive is orange, what is negative blue, as in the style of the pages."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from alexnet.use.explain.receptive import ReceptiveField

__all__ = ["map_picture", "over_picture", "patch_picture", "share_picture", "thumbnail"]

POSITIVE, NEGATIVE = np.array([192.0, 86.0, 47.0]), np.array([47.0, 102.0, 144.0])
COVER = 0.85  # of a picture, by the strongest cell
SIDE = 64  # of small pictures


def map_picture(values: Tensor, scale: float) -> Image.Image:
    """A feature map ``[H, W]``, a pixel a cell: white at 0, full orange at ``scale``, full blue at ``−scale``."""
    shares = np.clip(values.cpu().numpy() / max(scale, np.finfo(np.float32).tiny), -1, 1)[..., None]
    colours = 255 + np.abs(shares) * (np.where(shares > 0, POSITIVE, NEGATIVE) - 255)
    return Image.fromarray(colours.round().astype(np.uint8))


def over_picture(picture: Image.Image, values: Tensor, field: ReceptiveField) -> Image.Image:
    """A signed map ``[H, W]``, such as Grad-CAM's, over a grey copy of the picture that the network saw.

    Each cell lies where it belongs, in the middle of what it looks at, with its hard edges; the strongest is full.

    Args:
        picture: ``[S, S]`` pixels, as ``seen`` gives.
        field: of the layer that the map is of.
    """
    numbers = values.cpu().numpy()
    shares = numbers / max(float(np.abs(numbers).max()), np.finfo(np.float32).tiny)
    colours = Image.fromarray(np.where(shares[..., None] > 0, POSITIVE, NEGATIVE).astype(np.uint8))
    mask = Image.fromarray((255 * COVER * np.abs(shares)).astype(np.uint8))
    left, top, *_ = field.cell(0, 0)
    *_, right, bottom = field.cell(numbers.shape[0] - 1, numbers.shape[1] - 1)
    x0, y0, x1, y1 = (round(side) for side in (left, top, right, bottom))
    # lighter, so that a dark picture leaves the colours room
    canvas = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, "white"), 0.35)
    cells, cover = (each.resize((x1 - x0, y1 - y0), Image.Resampling.NEAREST) for each in (colours, mask))
    canvas.paste(cells, (x0, y0), cover)
    return canvas.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def patch_picture(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """What a cell looks at in the picture that the network saw; transparent where the box leaves the picture."""
    return thumbnail(picture.convert("RGBA").crop(box))


def thumbnail(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture with no side longer than ``side``; a smaller one pixel by pixel as it is."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.BOX)
    return small


def share_picture(counts: list[list[int]]) -> Image.Image:
    """A confusion matrix, a pixel a cell: white for none, blue for all of the row's images."""
    numbers = np.asarray(counts, np.float64)
    shares = (numbers / np.maximum(numbers.sum(1, keepdims=True), 1))[..., None]
    return Image.fromarray((255 + np.sqrt(shares) * (NEGATIVE - 255)).round().astype(np.uint8))
