"""A whole data set in memory, turned into training crops by two small matrices an image.

``Resize(256)``, a crop, resizing the crop to 224 and mirroring are all linear in the pixels, and each works on rows and
columns apart. So the whole chain is

    out = V · x · Hᵀ        x: side × side      V, H: 224 × side

one pair of matrices an image, chosen by the crop's box. A batch is two batched products on the device that trains, with
no worker process and no image ever resized twice. The rows of V and H sum to 1, so the images are normalised while
they are small: V·(x − m)·Hᵀ = V·x·Hᵀ − m.

Differences from the PIL chain: PIL rounds to 8 bits after each pass, this does not; for the same boxes and flips the
two stay within 2/255 of each other (tests/data/test_resident.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Boxes", "CropMatrices", "centre_crop", "draw_boxes", "draw_crops", "resampling_matrix"]


def resampling_matrix(source: int, target: int) -> Tensor:
    """The matrix ``[target, source]`` of bilinear resizing with antialiasing, float64; its rows sum to 1.

    PIL's and torchvision's definition: a triangle around each target pixel's centre, as wide as a target pixel where
    the image shrinks and as wide as a source pixel where it grows, cut at the borders and normalised.
    """
    scale = source / target
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    position = torch.arange(source, dtype=torch.float64) + 0.5
    weights = (1 - (position[None] - centre[:, None]).abs() / max(scale, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class Boxes:
    """Crop boxes in the resized image, one an image: int64 ``[N]`` each, and ``flip`` bool ``[N]``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor

    def __getitem__(self, index: Tensor | slice) -> Boxes:
        return Boxes(self.top[index], self.left[index], self.height[index], self.width[index], self.flip[index])

    def to(self, device: torch.device) -> Boxes:
        return Boxes(*(t.to(device) for t in (self.top, self.left, self.height, self.width, self.flip)))


def draw_boxes(
    count: int,
    side: int,
    generator: torch.Generator,
    *,
    flip: bool,
    scale: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Boxes:
    """Boxes with the distribution of torchvision's ``RandomResizedCrop`` on a ``side`` × ``side`` image.

    Ten tries of an area uniform in ``scale`` and a ratio log-uniform in ``ratio``; the first that fits is placed
    uniformly. Where none fits, the whole image.
    """
    uniform = torch.rand(count, 10, 2, generator=generator, dtype=torch.float64)
    area = side * side * (scale[0] + (scale[1] - scale[0]) * uniform[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform[..., 1])
    width = torch.round(torch.sqrt(area * aspect)).long()
    height = torch.round(torch.sqrt(area / aspect)).long()
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.long().argmax(1, keepdim=True)
    none = ~fits.any(1)
    width = width.gather(1, first)[:, 0].masked_fill(none, side)
    height = height.gather(1, first)[:, 0].masked_fill(none, side)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    top = (place[:, 0] * (side - height + 1)).long()
    left = (place[:, 1] * (side - width + 1)).long()
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
    return Boxes(top, left, height, width, mirrored)


def draw_crops(count: int, side: int, crop: int, generator: torch.Generator, *, flip: bool) -> Boxes:
    """Boxes with the distribution of torchvision's ``RandomCrop(crop)`` on a ``side`` × ``side`` image."""
    top, left = torch.randint(side - crop + 1, (2, count), generator=generator)
    size = torch.full((count,), crop)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
    return Boxes(top, left, size, size, mirrored)


def centre_crop(source: int, side: int, crop: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Resizing to ``side`` and the central ``crop``, as torchvision places it: ``CropMatrices.apply`` for one box."""
    first = round((side - crop) / 2)
    matrix = resampling_matrix(source, side)[first : first + crop].float().to(device)  # [crop, source]
    return lambda images: _apply(images, matrix.expand(len(images), -1, -1), matrix.expand(len(images), -1, -1))


class CropMatrices:
    """The matrices of all crops of at least ``smallest`` pixels in an image of ``source`` resized to ``side``.

    A table ``[pairs, crop, source]`` of float32 on ``device``, one entry a pair of offset and length, 51 MB for
    CIFAR-10. Both axes share it.
    """

    def __init__(self, source: int, side: int, crop: int, smallest: int, device: torch.device) -> None:
        self.source, self.side, self.crop, self.smallest = source, side, crop, smallest
        resize = resampling_matrix(source, side)  # [side, source]
        table = []
        for length in range(smallest, side + 1):
            # all offsets of one length at once: [offsets, length, source]
            windows = resize.unfold(0, length, 1).transpose(1, 2)
            table.append((resampling_matrix(length, crop) @ windows).float())
        self.table = torch.cat(table).to(device)
        counts = torch.tensor([side - length + 1 for length in range(smallest, side + 1)])
        self.start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1]]).to(device)

    def pairs(self, offset: Tensor, length: Tensor) -> Tensor:
        """Rows of the table: int64 ``[N]`` for offsets and lengths ``[N]``."""
        return self.start[length - self.smallest] + offset

    def apply(self, images: Tensor, boxes: Boxes) -> Tensor:
        """``[N, source, source, 3]`` float32 to ``[N, 3, crop, crop]``, channels last in memory; all on one device."""
        vertical = self.table[self.pairs(boxes.top, boxes.height)]
        horizontal = self.table[self.pairs(boxes.left, boxes.width)]
        return _apply(images, vertical, torch.where(boxes.flip[:, None, None], horizontal.flip(1), horizontal))


def _apply(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """``V · x · Hᵀ`` of each image: ``[N, rows, columns, 3]`` to ``[N, 3, crop, crop]``, channels last in memory."""
    n, rows, columns, channels = images.shape
    crop = len(vertical[0])
    with torch.autocast(images.device.type, enabled=False):  # which would round the images
        x = images.transpose(1, 2).reshape(n, columns, rows * channels)
        x = torch.bmm(horizontal, x)  # [N, crop, rows · 3]
        x = x.view(n, crop, rows, channels).transpose(1, 2).reshape(n, rows, crop * channels)
        x = torch.bmm(vertical, x)  # [N, crop, crop · 3]
    return x.view(n, crop, crop, channels).permute(0, 3, 1, 2)
