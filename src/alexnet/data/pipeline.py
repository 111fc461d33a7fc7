"""From a source's images to batches: torchvision's transforms in worker processes, or the resident path.

Both take the same order of images, drawn from the seed and the epoch alone, and draw each image's crop from the seed,
the epoch and its place, so a run resumed in the middle of an epoch sees exactly what the uninterrupted one saw.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alexnet.card import Normalization
from alexnet.data.resident import Boxes, CropMatrices, centre_box, draw_boxes, draw_crops
from alexnet.data.sources import ImageError, Images, Source
from alexnet.data.statistics import SMALL_SIDE, are_small, statistics
from alexnet.data.transforms import (
    RESIZE,
    SCALE,
    Augmentation,
    EvalTransform,
    TrainTransform,
    decode_mean_image,
    encode_mean_image,
)
from alexnet.recipes import Recipe

__all__ = ["Batches", "color_noise", "normalization", "open_batches", "small_normalize"]

SMALLEST_CROP = 198  # RESIZE · √(0.8 · 3/4), rounded
WORKERS = min(4, os.cpu_count() or 1)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalization(input_scale: str, images: Images) -> Normalization:
    """What a recipe's ``input_scale`` means for a data set, whose training images are ``images``."""
    if input_scale == "imagenet":
        return Normalization(IMAGENET_MEAN, IMAGENET_STD)
    found = statistics(images)
    red, green, blue = (float(value) for value in found.mean / 255)
    mean_image = encode_mean_image(found.mean_image) if input_scale == "mean-image" else ""
    return Normalization((red, green, blue), (1 / 255,) * 3, mean_image)


def color_noise(kind: str, images: Images) -> Tensor | None:
    """The matrix of ``Augmentation.color_noise`` for a recipe's ``color_noise`` (the paper, section 4.1).

    Each principal component of the training images' colours, times N(0, 0.1), times its standard deviation (``std``,
    as in the released code) or its eigenvalue (``eigenvalue``, as in the text; of pixel values in 0..1, since with
    those of 0..255 the noise would drown the image).
    """
    if kind == "none":
        return None
    values, vectors = statistics(images).components
    scale = np.sqrt(values) if kind == "std" else values / 255  # λ of x/255 is λ/255², then times 255
    return torch.from_numpy(0.1 * vectors * scale).float()


class Batches(Protocol):
    """What the training loop asks of either path. A batch is images ``[B, 3, size, size]`` float32, labels ``[B]``."""

    kind: str
    steps_per_epoch: int

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the epoch's batches, from batch ``start`` on."""

    def val(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the validation images, in order, once."""


@dataclass(frozen=True)
class Share:
    """The part of each batch that this process takes."""

    rank: int = 0
    world: int = 1


def open_batches(
    source: Source, recipe: Recipe, norm: Normalization, size: int, device: torch.device, share: Share = Share()
) -> Batches:
    """The resident path where ``recipe.loader`` allows it and the data fit it, the worker path otherwise."""
    if recipe.batch_size > len(source.train):
        raise ValueError(
            f"--batch-size {recipe.batch_size}: {source.name} has only {len(source.train)} training images"
        )
    last = len(source.train) % recipe.batch_size or recipe.batch_size
    if last < share.world:
        raise ValueError(
            f"--batch-size {recipe.batch_size}: an epoch's last batch has {last} images for {share.world} processes"
        )
    why_not = not_resident(source)
    if recipe.loader == "resident" and why_not:
        raise ValueError(f"--loader resident: {why_not}; allowed: auto or workers")
    noise = color_noise(recipe.color_noise, source.train)
    augmentation = Augmentation(recipe.flip and source.flip, recipe.crop, noise)
    kind = WorkerBatches if recipe.loader == "workers" or why_not else ResidentBatches
    return kind(source, recipe, norm, augmentation, size, device, share)


def not_resident(source: Source) -> str:
    """Why the resident path cannot take this source; empty if it can."""
    width, height = source.train.image(0).size
    if height != width or height > SMALL_SIDE:
        size = f"{height}×{width}"
        return f"the images of {source.name} are {size}; the resident path takes squares up to {SMALL_SIDE}"
    if not are_small(source.train) or not are_small(source.val):
        return f"the images of {source.name} are not of one size, or too many for memory"
    if source.train.image(0).size != source.val.image(0).size:
        return f"the training and validation images of {source.name} differ in size"
    return ""


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the training images in an epoch: int64 ``[count]``."""
    return torch.randperm(count, generator=_generator(seed, epoch, stream=0))


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    # SeedSequence mixes the three numbers so that neighbouring seeds and epochs give unrelated streams.
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


class ResidentBatches:
    """All images as uint8 on the device; crops made there, a batch at a time."""

    kind = "resident"

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        norm: Normalization,
        augmentation: Augmentation,
        size: int,
        device: torch.device,
        share: Share,
    ) -> None:
        self.recipe, self.size, self.device, self.share = recipe, size, device, share
        self.augmentation = augmentation
        self.train_images, self.train_labels = self._resident(source.train)
        self.val_images, self.val_labels = self._resident(source.val)
        side = self.train_images.shape[1]
        self.normalize = small_normalize(norm, side, device)
        noise = augmentation.color_noise
        self.noise = None if noise is None else (noise / (255 * torch.tensor(norm.std)[:, None])).to(device)
        self.matrices = CropMatrices(side, RESIZE, size, min(SMALLEST_CROP, size), device)
        self.steps_per_epoch = -(-len(self.train_images) // recipe.batch_size)

    def _resident(self, images: Images) -> tuple[Tensor, Tensor]:
        array = images.array()
        assert array is not None  # open_batches asked
        return torch.from_numpy(array).to(self.device), torch.from_numpy(images.labels).to(self.device)

    def _boxes(self, epoch: int) -> Boxes:
        random, flip = _generator(self.recipe.seed, epoch, stream=1), self.augmentation.flip
        if self.augmentation.crop == "random":
            return draw_crops(len(self.train_images), RESIZE, self.size, random, flip=flip)
        return draw_boxes(len(self.train_images), RESIZE, random, flip=flip, scale=SCALE)

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        count, size = len(self.train_images), self.recipe.batch_size
        # drawn for the whole epoch, and sent to the device once: a step then waits for nothing
        order = epoch_order(count, self.recipe.seed, epoch).to(self.device)
        boxes = self._boxes(epoch).to(self.device)
        draws = torch.randn(count, 3, generator=_generator(self.recipe.seed, epoch, stream=3)).to(self.device)
        for first in range(start * size, count, size):
            mine = slice(first + self.share.rank, min(first + size, count), self.share.world)
            index = order[mine]
            images = self.normalize(self.train_images[index])
            if self.noise is not None:
                images = images + (draws[mine] @ self.noise.T)[:, None, None]
            yield self.matrices.apply(images, boxes[mine]), self.train_labels[index]

    def val(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = (t[self.share.rank :: self.share.world] for t in (self.val_images, self.val_labels))
        size = val_batch_size(self.device)
        boxes = centre_box(size, RESIZE, self.size).to(self.device)
        for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            yield self.matrices.apply(self.normalize(x), boxes[: len(x)]), y


def small_normalize(norm: Normalization, side: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """``Normalize`` for images ``[N, side, side, 3]`` still to be resized; the same thing, for resizing is linear."""
    mean = decode_mean_image(norm, side) if norm.mean_image else torch.tensor(norm.mean)
    mean, std = mean.to(device) * 255, torch.tensor(norm.std, device=device) * 255
    return lambda images: (images.float() - mean) / std


def val_batch_size(device: torch.device) -> int:
    """Large batches where memory is plenty; on a CPU the size that stays near its cache (measured)."""
    return 1000 if device.type == "cuda" else 128


class WorkerBatches:
    """torchvision's transforms on PIL images in worker processes: the reference, and the path for large images."""

    kind = "workers"

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        norm: Normalization,
        augmentation: Augmentation,
        size: int,
        device: torch.device,
        share: Share,
    ) -> None:
        self.device, self.count = device, len(source.train)
        self.steps_per_epoch = -(-self.count // recipe.batch_size)
        self.sampler = _EpochSampler(self.count, recipe.batch_size, recipe.seed, share)
        options: dict[str, Any] = {
            "num_workers": WORKERS,
            "persistent_workers": True,
            "pin_memory": device.type == "cuda",
            "worker_init_fn": _leave_signals_to_the_loop,
        }
        self.train_loader = DataLoader(
            _Transformed(source.train, TrainTransform(size, norm, augmentation)), batch_sampler=self.sampler, **options
        )
        mine = source.val.subset(np.arange(share.rank, len(source.val), share.world))
        self.val_loader = DataLoader(
            _Transformed(mine, EvalTransform(size, norm)), batch_size=val_batch_size(device), **options
        )

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.sampler.epoch, self.sampler.start = epoch, start
        return self._on_device(self.train_loader)

    def val(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._on_device(self.val_loader)

    def _on_device(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            for images, labels in loader:
                images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
                yield images, labels.to(self.device, non_blocking=True)
        except ImageError as error:  # torch puts the worker's whole trace into the message; its last line is ours
            last = str(error).strip().splitlines()[-1]
            raise ImageError(last.removeprefix(f"{ImageError.__module__}.{ImageError.__name__}: ")) from None


def _leave_signals_to_the_loop(_worker: int) -> None:
    # Ctrl-C and job schedulers signal every process at once; without its workers the loop could not end as it should.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (image, seed of its crop); the loop sets the epoch and the batch to start from."""

    def __init__(self, count: int, batch_size: int, seed: int, share: Share) -> None:
        self.count, self.batch_size, self.seed, self.share = count, batch_size, seed, share
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.count, self.seed, self.epoch)
        crops = torch.randint(2**62, (self.count,), generator=_generator(self.seed, self.epoch, stream=2))
        for first in range(self.start * self.batch_size, self.count, self.batch_size):
            mine = slice(first + self.share.rank, min(first + self.batch_size, self.count), self.share.world)
            yield list(zip(order[mine].tolist(), crops[mine].tolist(), strict=True))

    def __len__(self) -> int:
        return -(-self.count // self.batch_size) - self.start


class _Transformed(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: Images, transform: TrainTransform | EvalTransform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        index, crop_seed = key if isinstance(key, tuple) else (key, None)
        image, label = self.images.image(index), int(self.images.labels[index])
        if crop_seed is None:
            return self.transform(image), label
        with torch.random.fork_rng(devices=[]):  # the transform draws from the global state; give it the image's own
            torch.manual_seed(crop_seed)
            return self.transform(image), label
