"""Augmentations: one function each, named in ``Recipe.augment``, for small and large images alike.

To add one, write a function under ``@augmentation(stage)`` and put its name in a recipe. The stage is what it changes:

* ``box``: which part of the 256×256 pixels of an image becomes its crop, a ``Boxes`` for all images of an epoch;
* ``color``: normalised images ``[B, 3, H, W]``, each pixel of an image in the same way. Small images are changed before
  they are cropped: this is faster, and gives the same because cropping is linear;
* ``crop``: normalised crops ``[B, 3, S, S]``.

Random numbers come from ``Draws``: they depend only on the seed, the epoch and an image's place in it, so a run
resumed in the middle of an epoch, or shared by several processes, sees exactly the same images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.data.normalization import RESIZE, Normalization, resampling_matrix, resize_pixels, statistics

if TYPE_CHECKING:
    from alexnet.data.datasets import Images
    from alexnet.recipes import Recipe

__all__ = [
    "AUGMENTATIONS", "CROPS", "MIRRORS", "Augmentation", "BoxCrops", "Boxes", "Draws", "augmentation", "cut_box",
    "generator",
]  # fmt: skip

Stage = Literal["box", "color", "crop"]
STREAMS = {"order": 0, "box": 1, "color": 3, "crop": 4, "mirror": 5}  # numbers of independent random streams
CROPS = ("random_resized_crop", "random_crop")  # a list of augmentations may have one of them
MIRRORS = ("flip", "alternating_flip")  # skipped if a mirrored image belongs to no class, as for digits


@dataclass(frozen=True)
class Augmentation:
    """A registered function: ``apply(boxes or images, draws)`` returns the changed ones."""

    stage: Stage
    apply: Callable[[Any, Draws], Any]


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(stage: Stage) -> Callable[[Callable[[Any, Draws], Any]], Callable[[Any, Draws], Any]]:
    """Register a function as an augmentation, under its name."""

    def register(function: Callable[[Any, Draws], Any]) -> Callable[[Any, Draws], Any]:
        AUGMENTATIONS[function.__name__] = Augmentation(stage, function)
        return function

    return register


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """The random numbers of one epoch for one purpose."""
    # SeedSequence mixes the three numbers so that neighbouring seeds and epochs give unrelated streams.
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) >> 1)


@dataclass(frozen=True)
class Boxes:
    """Crop boxes in the 256×256 pixels of N images: int64 ``[N]`` each, and ``mirrored`` bool ``[N]``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor

    def __getitem__(self, index: Tensor | slice) -> Boxes:
        return Boxes(self.top[index], self.left[index], self.height[index], self.width[index], self.mirrored[index])

    @staticmethod
    def central(count: int, size: int) -> Boxes:
        """The central ``size`` × ``size`` pixels, as torchvision's CenterCrop places them."""
        first, side = torch.full((count,), round((RESIZE - size) / 2)), torch.full((count,), size)
        return Boxes(first, first, side, side, torch.zeros(count, dtype=torch.bool))


class Draws:
    """What an augmentation may use: random numbers, a row for each image, and the recipe, epoch and images.

    Args:
        order: int64 ``[N]``, the images of the epoch in their order.
        images: the training images.
    """

    def __init__(self, recipe: Recipe, epoch: int, order: Tensor, stage: Stage, images: Images, norm: Normalization):
        self.recipe, self.epoch, self.order, self.images, self.norm = recipe, epoch, order, images, norm
        self._generator, self._drawn = generator(recipe.seed, epoch, STREAMS[stage]), list[Tensor]()
        self._places, self._calls = slice(None), 0

    def at(self, places: slice) -> Draws:
        """The draws of the images at these places of the epoch. All batches must make the same calls in one order."""
        batch = copy.copy(self)
        batch._places, batch._calls = places, 0
        return batch

    def _rows(self, draw: Callable[[int], Tensor]) -> Tensor:
        if self._calls == len(self._drawn):  # drawn for the whole epoch, so that a batch does not depend on others
            self._drawn.append(draw(len(self.order)))
        self._calls += 1
        return self._drawn[self._calls - 1][self._places]

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in 0..1: ``[B, *shape]``, on the CPU."""
        return self._rows(lambda count: torch.rand(count, *shape, generator=self._generator, dtype=dtype))

    def randn(self, *shape: int) -> Tensor:
        """Normally distributed with mean 0 and standard deviation 1: float32 ``[B, *shape]``, on the CPU."""
        return self._rows(lambda count: torch.randn(count, *shape, generator=self._generator))

    def randint(self, high: int) -> Tensor:
        """Integers from 0 to ``high`` − 1, uniformly distributed: int64 ``[B]``, on the CPU."""
        return self._rows(lambda count: torch.randint(high, (count,), generator=self._generator))


# The augmentations


@augmentation("box")
def random_resized_crop(boxes: Boxes, draws: Draws) -> Boxes:
    """0.8 to 1 of the area at a ratio of 3/4 to 4/3, resized: torchvision's ``RandomResizedCrop(scale=(0.8, 1.0))``.

    Ten tries of an area and a log-uniform ratio; the first that fits is placed uniformly. If none fits, the full
    image is used.
    """
    uniform = draws.rand(10, 2, dtype=torch.float64)
    area = RESIZE * RESIZE * (0.8 + (1.0 - 0.8) * uniform[..., 0])
    low, high = math.log(3 / 4), math.log(4 / 3)
    aspect = torch.exp(low + (high - low) * uniform[..., 1])
    width = torch.round(torch.sqrt(area * aspect)).long()
    height = torch.round(torch.sqrt(area / aspect)).long()
    fits = (width <= RESIZE) & (height <= RESIZE)
    first, none = fits.long().argmax(1, keepdim=True), ~fits.any(1)
    width = width.gather(1, first)[:, 0].masked_fill(none, RESIZE)
    height = height.gather(1, first)[:, 0].masked_fill(none, RESIZE)
    place = draws.rand(2, dtype=torch.float64)
    top, left = (place[:, 0] * (RESIZE - height + 1)).long(), (place[:, 1] * (RESIZE - width + 1)).long()
    return Boxes(top, left, height, width, boxes.mirrored)


@augmentation("box")
def random_crop(boxes: Boxes, draws: Draws) -> Boxes:
    """A crop anywhere in the 256×256 pixels, as it is: the paper, section 4.1."""
    size = int(boxes.height[0])
    top, left = draws.randint(RESIZE - size + 1), draws.randint(RESIZE - size + 1)
    return replace(boxes, top=top, left=left)


@augmentation("box")
def flip(boxes: Boxes, draws: Draws) -> Boxes:
    """Mirror half of the images."""
    return replace(boxes, mirrored=draws.rand() < 0.5)


@augmentation("box")
def alternating_flip(boxes: Boxes, draws: Draws) -> Boxes:
    """Mirror half of the images in even epochs, the other half in odd ones (airbench)."""
    random = generator(draws.recipe.seed, 0, STREAMS["mirror"])
    even = torch.rand(len(draws.images), generator=random) < 0.5
    return replace(boxes, mirrored=even[draws.order] ^ bool(draws.epoch % 2))


@augmentation("color")
def pca_color(images: Tensor, draws: Draws) -> Tensor:
    """Shift colours along their principal components by N(0, 0.1) times the eigenvalue: the paper, section 4.1.

    The eigenvalues are those of pixel values in 0..1, because those of 0..255 make the noise stronger than the image.
    """
    return _pca_color(images, draws, lambda eigenvalues: eigenvalues / 255, 1.0)  # of x/255 λ/255², then times 255


@augmentation("color")
def pca_color_std(images: Tensor, draws: Draws) -> Tensor:
    """Shift colours along their principal components by N(0, 0.1) times the standard deviation, then divide by 1.1.

    As the released code does it (convdata.py, lines 41, 113 and 205); the division keeps the scale of test images.
    """
    return _pca_color(images, draws, np.sqrt, 1.1)


def _pca_color(images: Tensor, draws: Draws, scale: Callable[[np.ndarray], np.ndarray], divisor: float) -> Tensor:
    if draws.epoch >= round(draws.recipe.pca_color_until * draws.recipe.epochs):
        return images
    values, vectors = statistics(draws.images).components
    noise = torch.from_numpy(0.1 * vectors * scale(values)).float()  # [3, 3], in pixel values of 0..255
    noise = (noise / (255 * torch.tensor(draws.norm.std)[:, None])).T
    shift = (draws.randn(3) @ noise).to(images.device, non_blocking=images.is_cuda)
    return (images + shift[:, :, None, None]) / divisor


@augmentation("crop")
def cutout(images: Tensor, draws: Draws) -> Tensor:
    """Set a square of 64 pixels to the mean, which is 0; its centre lies anywhere (DeVries and Taylor 2017)."""
    pixels = torch.arange(images.shape[-1])
    centre = (draws.rand(2, 1) * len(pixels)).long()
    offset = pixels - centre + 32
    inside = (offset >= 0) & (offset < 64)
    inside = inside.to(images.device, non_blocking=images.is_cuda)  # [B, 2, S]
    return images.masked_fill((inside[:, 0, :, None] & inside[:, 1, None])[:, None], 0.0)


# Cutting the boxes out


class BoxCrops:
    """Boxes cut out of small images on a device, by two small matrices an image.

    Resizing to 256, a crop, resizing the crop and mirroring are all linear in the pixels, and each works on rows and
    columns apart: ``out = V · x · Hᵀ`` with ``x`` side × side and ``V``, ``H`` size × side. The rows of V and H sum to
    1, so images may be normalised before: V·(x − m)·Hᵀ = V·x·Hᵀ − m. torchvision rounds to 8 bits after each resizing,
    this does not; for the same box the two stay within 2/255 of each other.
    """

    def __init__(self, side: int, size: int, device: torch.device) -> None:
        self.size, self.device, self.resize = size, device, resampling_matrix(side, RESIZE)
        self.known: dict[tuple[int, int], Tensor] = {}  # 1,770 of random_resized_crop, 51 MB for CIFAR-10

    def _matrix(self, offset: int, length: int) -> Tensor:
        """The matrix ``[size, side]`` of a box's rows or columns."""
        if (offset, length) not in self.known:
            matrix = resampling_matrix(length, self.size) @ self.resize[offset : offset + length]
            self.known[offset, length] = matrix.float().to(self.device)
        return self.known[offset, length]

    def _matrices(self, offsets: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack([self._matrix(*box) for box in zip(offsets.tolist(), lengths.tolist(), strict=True)])

    def __call__(self, images: Tensor, boxes: Boxes) -> Tensor:
        """float32 ``[N, 3, side, side]``, and boxes on the CPU, to ``[N, 3, size, size]``, channels last in memory."""
        n, channels, rows, columns = images.shape
        vertical, horizontal = self._matrices(boxes.top, boxes.height), self._matrices(boxes.left, boxes.width)
        horizontal = torch.where(boxes.mirrored.to(self.device)[:, None, None], horizontal.flip(1), horizontal)
        with torch.autocast(images.device.type, enabled=False):  # which would round the images
            x = images.permute(0, 3, 2, 1).reshape(n, columns, rows * channels)
            x = torch.bmm(horizontal, x)  # [N, size, rows · 3]
            x = x.view(n, self.size, rows, channels).transpose(1, 2).reshape(n, rows, self.size * channels)
            x = torch.bmm(vertical, x)  # [N, size, size · 3]
        return x.view(n, self.size, self.size, channels).permute(0, 3, 1, 2)


def cut_box(pixels: np.ndarray, boxes: Boxes, index: int, size: int) -> np.ndarray:
    """Box ``index`` cut out of uint8 ``[256, 256, 3]`` and resized: uint8 ``[size, size, 3]``."""
    parts = (boxes.top, boxes.left, boxes.height, boxes.width)
    top, left, height, width = (int(part[index]) for part in parts)
    crop = resize_pixels(np.ascontiguousarray(pixels[top : top + height, left : left + width]), size, size)
    return np.ascontiguousarray(crop[:, ::-1]) if boxes.mirrored[index] else crop
