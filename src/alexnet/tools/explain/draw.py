"""Pictures for the page and the demo. Positive values are orange, negative ones blue, as in the pages' style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from alexnet.data.datasets import Images
from alexnet.evaluate import info_of
from alexnet.model import AlexNet_2012
from alexnet.tools.explain.analysis import Explanation, Outputs, ReceptiveField, correlation, nearest, receptive_field
from alexnet.tools.html import png_uri

__all__ = ["draw_explanation", "draw_neighbours", "evidence_image", "map_image", "patch_image", "thumbnail"]

POSITIVE, NEGATIVE = np.array([192.0, 86.0, 47.0]), np.array([47.0, 102.0, 144.0])
OPACITY = 0.85  # of the strongest cell over a picture
SIDE = 64  # of small pictures
MAPS = 6  # of each convolution
NEIGHBOURS = 6


def draw_explanation(model: AlexNet_2012, found: Explanation, classes: Sequence[str]) -> dict[str, Any]:
    """What the template ``explanation.html`` shows of an image, with the pictures as ``data:`` URIs."""
    field, layers = receptive_field(model, "relu5"), []
    for name, maps in found.maps.items():  # [channels, H, W]
        channels = maps.amax((1, 2)).topk(min(MAPS, len(maps))).indices.tolist()  # with the highest peaks
        scale = float(maps[channels].abs().max())
        shown = [{"channel": channel, "uri": png_uri(map_image(maps[channel], scale))} for channel in channels]
        layers.append({"name": name, "count": len(maps), "cells": maps.shape[1], "scale": scale, "maps": shown})
    return {
        "view": png_uri(found.view),
        "side": found.view.width,
        "warped": info_of(model).normalization.resize == "warp",
        "top": [{"name": classes[index], "probability": share} for index, share in found.top],
        "evidence": [
            {
                "name": classes[index],
                "uri": png_uri(evidence_image(found.view, evidence, field)),
                "high": float(evidence.max()),
            }
            for (index, _), evidence in zip(found.top, found.evidence, strict=False)
        ],
        "random": png_uri(evidence_image(found.view, found.evidence_random, field)),
        "correlation": correlation(found.evidence[0], found.evidence_random),
        "layers": layers,
    }


def draw_neighbours(images: Images, classes: Sequence[str], known: Outputs, own: Outputs) -> list[dict[str, Any]]:
    """For each query in ``own``, its nearest images by fc7 and by pixels; ``known`` is their outputs."""
    found: list[dict[str, Any]] = [{} for _ in own.logits]
    for space in ("fc7", "pixels"):
        distances, indices = nearest(getattr(own, space), getattr(known, space), NEIGHBOURS)
        for each, *near in zip(found, distances.tolist(), indices.tolist(), strict=True):
            each[space] = [
                {
                    "file": images.name(index),
                    "class": classes[images.labels[index]],
                    "distance": distance,
                    "uri": png_uri(thumbnail(images.image(index))),
                }
                for distance, index in zip(*near, strict=True)
            ]
    return found


def map_image(values: Tensor, scale: float) -> Image.Image:
    """A feature map ``[H, W]``, one pixel a cell: white at 0, orange at ``scale``, blue at ``−scale``."""
    shares = np.clip(values.numpy() / max(scale, np.finfo(np.float32).tiny), -1, 1)[..., None]
    colours = 255 + np.abs(shares) * (np.where(shares > 0, POSITIVE, NEGATIVE) - 255)
    return Image.fromarray(colours.round().astype(np.uint8))


def evidence_image(view: Image.Image, evidence: Tensor, field: ReceptiveField) -> Image.Image:
    """A Grad-CAM map ``[H, W]`` over a grey copy of the network's view; its strongest cell has the full colour.

    Each cell is drawn at its own place, in the middle of its receptive field, and is not blurred.
    """
    values = evidence.numpy()
    shares = values / max(float(np.abs(values).max()), np.finfo(np.float32).tiny)
    colours = Image.fromarray(np.where(shares[..., None] > 0, POSITIVE, NEGATIVE).astype(np.uint8))
    opacity = Image.fromarray((255 * OPACITY * np.abs(shares)).astype(np.uint8))
    first = field.start + (field.size - field.stride) / 2
    start, end = round(first), round(first + field.stride * len(values))
    # lighter, so that the colours show on a dark picture too
    canvas = Image.blend(view.convert("L").convert("RGB"), Image.new("RGB", view.size, "white"), 0.35)
    cells, mask = (each.resize((end - start, end - start), Image.Resampling.NEAREST) for each in (colours, opacity))
    canvas.paste(cells, (start, start), mask)
    return canvas.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def patch_image(view: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A patch of the network's view; transparent where the box leaves the view."""
    return thumbnail(view.convert("RGBA").crop(box))


def thumbnail(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture with no side longer than ``side``; a smaller one is not enlarged."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.BOX)
    return small
