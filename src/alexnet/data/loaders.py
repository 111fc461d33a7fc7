"""From a data set's images to batches: to train on, by one of two paths, and to evaluate on.

``resident``: small square images stay on the device as uint8, and crops are computed there, a batch at a time.
``workers``: threads decode each image to its central 256×256 pixels, as the paper does, and cut the crop out.

Both take the same order of images and the same augmentations, which depend on the seed, the epoch and an image's place
in it alone, so a run resumed in the middle of an epoch sees exactly what the uninterrupted one saw.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from alexnet.data.augment import (
    AUGMENTATIONS,
    CROPS,
    MIRRORS,
    STREAMS,
    BoxCrops,
    Boxes,
    Draws,
    Stage,
    cut_box,
    generator,
)  # fmt: skip
from alexnet.data.datasets import Dataset, Images
from alexnet.data.images import prefetch
from alexnet.data.normalization import RESIZE, Normalization, central_pixels, mean_pixels, normalized, small_array
from alexnet.errors import FieldError, check_choice
from alexnet.recipes import Recipe, Runtime

__all__ = [
    "Batch", "Loader", "Shard", "check_batch_size", "epoch_order", "eval_batch_size", "eval_batches", "open_loader",
]  # fmt: skip

Batch = tuple[Tensor, Tensor]
"""Images float32 ``[B, 3, S, S]`` and labels int64 ``[B]``, on one device."""


@dataclass(frozen=True)
class Shard:
    """The part of each batch that this process takes: every ``world``-th image, from ``rank`` on."""

    rank: int = 0
    world: int = 1


class Loader(Protocol):
    """What the training loop takes its batches from."""

    kind: str
    steps_per_epoch: int

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's part of the epoch's batches, from batch ``start`` on."""

    def eval(self, images: Images, tta: str) -> Iterator[Batch]:
        """The images in order, at the size that the test-time augmentation takes its crops from.

        With several processes, in batches of ``eval_batch_size``, so that all take the same number of turns.
        """


def open_loader(
    dataset: Dataset, recipe: Recipe, runtime: Runtime, norm: Normalization, size: int, device: torch.device,
    shard: Shard = Shard(),
) -> Loader:  # fmt: skip
    """The resident path if ``runtime.loader`` allows it and the images fit it, else the path of workers.

    Args:
        size: side of the network's input, 224 to 256.

    Raises:
        FieldError: a batch size or an augmentation that is impossible, or images that the requested loader cannot use.
        ImageError: the first training image is damaged; for small images, any of them.
        ValueError: a ``size`` that is not allowed: its crops would show little of an image.
    """
    if not 224 <= size <= RESIZE:
        reason = f"from whose pixels crops are cut, got {size}; a model of another size must resize its input"
        raise ValueError(f"input_size must be 224 to {RESIZE}, {reason}")
    check_batch_size(recipe, dataset, shard.world)
    for name in recipe.augment:
        check_choice("augment", name, AUGMENTATIONS)
    if len(set(recipe.augment) & set(CROPS)) > 1:
        raise FieldError("augment", f"a list with one of {' and '.join(CROPS)}", recipe.augment)
    resident = runtime.loader != "workers" and small_array(dataset.train) is not None
    if runtime.loader == "resident" and not resident:
        allowed = f"auto or workers, because the images of {dataset.name} are not small squares, or too many for memory"
        raise FieldError("loader", allowed, runtime.loader)
    return BatchLoader("resident" if resident else "workers", dataset, recipe, norm, size, device, shard)


def check_batch_size(recipe: Recipe, dataset: Dataset, world: int = 1) -> None:
    """``FieldError`` if there are fewer training images than a batch has, or than ``world`` in the last batch."""
    batch, count = recipe.batch_size, len(dataset.train)
    if batch > count:
        raise FieldError("batch_size", f"at most {count}, the training images of {dataset.name}", batch)
    if (count % batch or batch) < world:
        raise FieldError("batch_size", f"one that leaves at least {world} images for the last batch", batch)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the training images in an epoch: int64 ``[count]``."""
    return torch.randperm(count, generator=generator(seed, epoch, STREAMS["order"]))


class BatchLoader:
    """Both paths: ``kind`` is ``resident`` or ``workers``. See ``open_loader``."""

    def __init__(
        self, kind: str, dataset: Dataset, recipe: Recipe, norm: Normalization, size: int, device: torch.device,
        shard: Shard,
    ) -> None:  # fmt: skip
        self.kind, self.images, self.recipe, self.norm = kind, dataset.train, recipe, norm
        self.size, self.device, self.shard = size, device, shard
        self.names = [name for name in recipe.augment if dataset.flip or name not in MIRRORS]
        self.steps_per_epoch = -(-len(self.images) // recipe.batch_size)
        array = self.images.array() if kind == "resident" else None
        self.pixels = None if array is None else torch.from_numpy(array).to(device)  # [N, side, side, 3]
        side = None if array is None else array.shape[1]
        self.mean = mean_pixels(norm, side).to(device)
        self.std = torch.tensor(norm.std, device=device)[:, None, None] * 255
        self.cut = BoxCrops(side or self.mean.shape[-1], size, device)

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        count, step, rank, world = len(self.images), self.recipe.batch_size, self.shard.rank, self.shard.world
        order = epoch_order(count, self.recipe.seed, epoch)
        draws = functools.partial(Draws, self.recipe, epoch, order, images=self.images, norm=self.norm)
        boxes = self._augment("box", Boxes.central(count, self.size), draws("box"))
        if self.pixels is not None:
            boxes = replace(boxes, mirrored=boxes.mirrored.to(self.device))  # once an epoch, as the order
        color, crop = draws("color"), draws("crop")
        labels = torch.from_numpy(self.images.labels)[order].to(self.device)
        batches = [slice(first + rank, min(first + step, count), world) for first in range(start * step, count, step)]
        small = self._decoded(order, boxes, batches) if self.pixels is None else self._resident(order, batches)
        for places, images in zip(batches, small, strict=True):
            images = self._augment("color", images, color.at(places))
            if self.pixels is not None:
                images = self.cut(images, boxes[places])
            yield self._augment("crop", images, crop.at(places)), labels[places]

    def _augment(self, stage: Stage, images: Any, draws: Draws) -> Any:
        for name in self.names:
            if AUGMENTATIONS[name].stage == stage:
                images = AUGMENTATIONS[name].apply(images, draws)
        return images

    def _resident(self, order: Tensor, batches: Sequence[slice]) -> Iterator[Tensor]:
        """For each batch, whole images, normalised: float32 ``[B, 3, side, side]``."""
        assert self.pixels is not None
        order = order.to(self.device)  # once an epoch: a step then waits for nothing
        for places in batches:
            yield (self.pixels[order[places]].permute(0, 3, 1, 2).float() - self.mean) / self.std

    def _decoded(self, order: Tensor, boxes: Boxes, batches: Sequence[slice]) -> Iterator[Tensor]:
        """For each batch, crops, normalised: float32 ``[B, 3, size, size]``."""

        def read(place: int) -> np.ndarray:
            pixels = central_pixels(self.images.image(int(order[place])), resize=self.norm.resize)
            return cut_box(pixels, boxes, place, self.size)

        rows = [range(len(order))[places] for places in batches]
        crops = prefetch(read, itertools.chain.from_iterable(rows), most=2 * self.recipe.batch_size)
        for places, own in zip(batches, rows, strict=True):
            pixels = torch.from_numpy(np.stack(list(islice(crops, len(own))))).permute(0, 3, 1, 2)
            pixels = pixels.to(self.device, non_blocking=self.device.type == "cuda")
            mean = self.mean
            if self.norm.mean_image:  # of each crop, the part of the mean image that lies where it was cut
                mean = self.cut(mean.expand(len(own), -1, -1, -1), boxes[places])
            yield pixels.float().sub_(mean).div_(self.std)

    def eval(self, images: Images, tta: str) -> Iterator[Batch]:
        return eval_batches(images, self.norm, RESIZE if tta == "ten-crop" else self.size, self.device)


def eval_batch_size(device: torch.device) -> int:
    """On a CPU the size that stays near its cache (measured); on a GPU what fits in 2 GB without torch.compile."""
    return 250 if device.type == "cuda" else 128


def eval_batches(images: Images, norm: Normalization, size: int, device: torch.device) -> Iterator[Batch]:
    """The images in order, resized to 256 and cropped to the central ``size``, and their labels, on the device.

    Small squares of one size are cropped by the matrices of the resident path, others are decoded by threads.
    """
    step, labels = eval_batch_size(device), torch.from_numpy(images.labels).to(device)
    if not len(images):  # one of several processes, with fewer images than processes
        return
    if (array := small_array(images)) is not None:
        mean, std = mean_pixels(norm, array.shape[1]).to(device), torch.tensor(norm.std, device=device) * 255
        cut = BoxCrops(array.shape[1], size, device)
        for first in range(0, len(array), step):
            pixels = torch.from_numpy(array[first : first + step]).to(device).permute(0, 3, 1, 2).float()
            crops = cut((pixels - mean) / std[:, None, None], Boxes.central(len(pixels), size))
            yield crops, labels[first : first + step]
        return
    decoded = prefetch(lambda row: central_pixels(images.image(row), size, norm.resize), range(len(images)), 2 * step)
    for first in range(0, len(images), step):
        yield normalized(list(islice(decoded, step)), norm, device), labels[first : first + step]
