"""Arrays as small pictures for the page. Orange is positive, blue negative, as in the page's style."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from alexnet.report.html import png_uri
from alexnet.use.explain import ReceptiveField

__all__ = ["crop_uri", "evidence", "evidence_uri", "map_uri", "thumbnail_uri"]

POSITIVE, NEGATIVE = np.array([192.0, 86.0, 47.0]), np.array([47.0, 102.0, 144.0])
COVER = 0.85  # of the picture, by the strongest cell


def crop_uri(crop: np.ndarray) -> str:
    """uint8 ``[S, S, 3]`` as it is."""
    return _jpeg_uri(Image.fromarray(crop))


def evidence_uri(crop: np.ndarray, cam: Tensor, field: ReceptiveField, zoom: int = 1) -> str:
    """``evidence`` for the page."""
    return _jpeg_uri(evidence(crop, cam, field, zoom))


def evidence(crop: np.ndarray, cam: Tensor, field: ReceptiveField, zoom: int = 1) -> Image.Image:
    """Grad-CAM ``[H, W]`` over a grey copy of its picture ``[S, S, 3]``, each cell in its own place and size.

    Args:
        field: of the layer that the map is of.
        zoom: of the picture, ``zoom * S`` pixels a side.
    """
    size = crop.shape[0] * zoom
    grey = Image.fromarray(crop).convert("L").resize((size, size), Image.Resampling.BICUBIC)
    values = cam.numpy()
    shares = values / max(float(np.abs(values).max()), np.finfo(np.float32).tiny)
    alpha = Image.fromarray((255 * COVER * np.abs(shares)).astype(np.uint8))
    colours = Image.fromarray(np.where(shares[..., None] > 0, POSITIVE, NEGATIVE).astype(np.uint8))
    rows, columns = values.shape
    left, top, *_ = field.cell(0, 0)
    *_, right, bottom = field.cell(rows - 1, columns - 1)
    x, y, end_x, end_y = (round(zoom * side) for side in (left, top, right, bottom))
    place = (end_x - x, end_y - y)
    cells, mask = (each.resize(place, Image.Resampling.NEAREST) for each in (colours, alpha))
    # lighter, so that dark and light pictures leave the colours the same room
    canvas = Image.blend(grey.convert("RGB"), Image.new("RGB", grey.size, "white"), 0.35)
    canvas.paste(cells, (x, y), mask)
    return canvas


def map_uri(values: Tensor, scale: float) -> str:
    """A feature map ``[H, W]``, a pixel a cell; ``scale`` is where the colours are full."""
    shares = np.clip(values.numpy() / scale, -1, 1)[..., None]
    colours = 255 + np.abs(shares) * (np.where(shares > 0, POSITIVE, NEGATIVE) - 255)
    return png_uri(Image.fromarray(colours.round().astype(np.uint8)))


def thumbnail_uri(picture: Image.Image, side: int = 128) -> str:
    """A training image, a small one pixel by pixel."""
    small = picture.copy()
    small.thumbnail((side, side))
    return png_uri(small)


def _jpeg_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
