"""From a data set's images to batches: to train on, by one of two paths, and to judge by.

Both paths take the same order of images, drawn from the seed and the epoch alone, and draw each image's crop from the
seed, the epoch and its place, so a run resumed in the middle of an epoch sees exactly what the uninterrupted one saw.
"""

from __future__ import annotations

import contextlib
import multiprocessing.resource_tracker
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from alexnet.data.images import ImageError, ahead
from alexnet.data.normalization import RESIZE, Normalization, Normalize, normalize_small, normalized
from alexnet.data.resident import Boxes, CropMatrices, centre_crop, draw_boxes, draw_crops
from alexnet.data.splits import Dataset, Images
from alexnet.data.statistics import SMALL_SIDE, are_small, color_noise
from alexnet.data.transforms import SCALE, Augmentation, ColorNoise, EvalTransform, TrainTransform
from alexnet.recipes import Recipe

__all__ = ["Batches", "Shard", "eval_batch_size", "eval_batches", "open_batches", "workers_alive"]

SMALLEST_CROP = 198  # RESIZE · √(0.8 · 3/4), rounded
WORKERS = min(4, os.cpu_count() or 1)

Batch = tuple[Tensor, Tensor]
"""Images float32 ``[B, 3, size, size]`` and labels int64 ``[B]``, on one device."""


@dataclass(eq=False)
class Batches(ABC):
    """The training images in batches, by either path."""

    images: Images
    recipe: Recipe
    norm: Normalization
    augmentation: Augmentation
    size: int
    device: torch.device
    shard: Shard
    kind: ClassVar[str]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.images) // self.recipe.batch_size)

    @abstractmethod
    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's shard of the epoch's batches, from batch ``start`` on."""

    def close(self) -> None:  # noqa: B027
        """End what runs beside this process. A program that leaves workers behind never ends."""


@dataclass(frozen=True)
class Shard:
    """The part of each batch that this process takes."""

    rank: int = 0
    world: int = 1

    def of(self, first: int, end: int) -> slice:
        """Its places among ``first`` to ``end``."""
        return slice(first + self.rank, end, self.world)


def open_batches(
    dataset: Dataset, recipe: Recipe, norm: Normalization, size: int, device: torch.device, shard: Shard = Shard()
) -> Batches:
    """The resident path where ``recipe.loader`` allows it and the data fit it, the worker path otherwise."""
    batch, count = recipe.batch_size, len(dataset.train)
    if batch > count:
        raise ValueError(f"--batch-size {batch}: {dataset.name} has only {count} training images")
    if (last := count % batch or batch) < shard.world:
        raise ValueError(f"--batch-size {batch}: an epoch's last batch has {last} images for {shard.world} processes")
    why_not = not_resident(dataset)
    if recipe.loader == "resident" and why_not:
        raise ValueError(f"--loader resident: {why_not}; allowed: auto or workers")
    noise, divisor = color_noise(recipe.color_noise, dataset.train), 1.1 if recipe.color_noise == "std" else 1.0
    augmentation = Augmentation(recipe.flip and dataset.flip, recipe.crop, noise, divisor)
    kind = WorkerBatches if recipe.loader == "workers" or why_not else ResidentBatches
    return kind(dataset.train, recipe, norm, augmentation, size, device, shard)


def not_resident(dataset: Dataset) -> str:
    """Why the resident path cannot take this data set; empty if it can."""
    width, height = dataset.train.image(0).size
    if height != width or height > SMALL_SIDE:
        return f"the images of {dataset.name} are {height}×{width}; the resident path takes squares up to {SMALL_SIDE}"
    if not are_small(dataset.train):
        return f"the images of {dataset.name} are not of one size, or too many for memory"
    return ""


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the training images in an epoch: int64 ``[count]``."""
    return torch.randperm(count, generator=_generator(seed, epoch, stream=0))


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    # SeedSequence mixes the three numbers so that neighbouring seeds and epochs give unrelated streams.
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


@dataclass(eq=False)
class ResidentBatches(Batches):
    """All images as uint8 on the device; crops made there, a batch at a time."""

    kind = "resident"

    def __post_init__(self) -> None:
        array, device = self.images.array(), self.device
        assert array is not None  # open_batches asked
        self.pixels, self.labels = torch.from_numpy(array).to(device), torch.from_numpy(self.images.labels).to(device)
        side = self.pixels.shape[1]
        self.normalize = normalize_small(self.norm, side, device)
        self.noise = ColorNoise(self.augmentation, self.norm, device)
        self.matrices = CropMatrices(side, RESIZE, self.size, min(SMALLEST_CROP, self.size), device)

    def _boxes(self, epoch: int) -> Boxes:
        random, flip = _generator(self.recipe.seed, epoch, stream=1), self.augmentation.flip
        if self.augmentation.crop == "random":
            return draw_crops(len(self.images), RESIZE, self.size, random, flip=flip)
        return draw_boxes(len(self.images), RESIZE, random, flip=flip, scale=SCALE)

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        count, size = len(self.images), self.recipe.batch_size
        # drawn for the whole epoch, and sent to the device once: a step then waits for nothing
        order = epoch_order(count, self.recipe.seed, epoch).to(self.device)
        boxes = self._boxes(epoch).to(self.device)
        draws = _noise_draws(count, self.recipe, epoch).to(self.device)
        for first in range(start * size, count, size):
            mine = self.shard.of(first, min(first + size, count))
            index = order[mine]
            images = self.normalize(self.pixels[index])
            if len(draws):
                images = self.noise(images, draws[mine], -1)
            yield self.matrices.apply(images, boxes[mine]), self.labels[index]


def _noise_draws(count: int, recipe: Recipe, epoch: int) -> Tensor:
    """Three draws of N(0, 1) for each place in an epoch: float32 ``[count, 3]``; none where it has no colour noise."""
    noisy = recipe.color_noise != "none" and epoch < round(recipe.color_noise_until * recipe.epochs)
    return torch.randn(count if noisy else 0, 3, generator=_generator(recipe.seed, epoch, stream=3))


@dataclass(eq=False)
class WorkerBatches(Batches):
    """torchvision's transforms, image by image in worker processes: the reference, and the path for large images."""

    kind = "workers"

    def __post_init__(self) -> None:
        self.normalize = Normalize(self.norm, self.size, self.device)
        self.noise = ColorNoise(self.augmentation, self.norm, self.device)
        self.sampler = _EpochSampler(len(self.images), self.recipe.batch_size, self.recipe.seed, self.shard)
        self.loader = DataLoader(
            _Transformed(self.images, TrainTransform(self.size, self.norm, self.augmentation)),
            batch_sampler=self.sampler,
            num_workers=WORKERS,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # without one of its own it draws from the state that drives dropout
        )

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, start
        count, size = len(self.images), self.recipe.batch_size
        draws = _noise_draws(count, self.recipe, epoch).to(self.device)
        try:
            with _signals_held():  # what the iterator starts, inherits this
                batches = iter(self.loader)
            for place, (images, labels) in enumerate(batches, start):
                images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
                if images.dtype == torch.uint8:  # a quarter of the bytes on their way here
                    images = self.normalize(images)
                if len(draws):
                    images = self.noise(images, draws[self.shard.of(place * size, min((place + 1) * size, count))], 1)
                yield images, labels.to(self.device, non_blocking=True)
        except ImageError as error:  # torch puts the worker's whole trace into the message; its last line is ours
            last = str(error).strip().splitlines()[-1]
            raise ImageError(last.removeprefix(f"{ImageError.__module__}.{ImageError.__name__}: ")) from None
        except (OSError, EOFError) as error:  # also of a socket whose worker was killed
            iterator: Any = self.loader._iterator  # None where its workers could not be started
            if iterator is None or not wait([worker.sentinel for worker in iterator._workers], timeout=1):
                raise
            raise RuntimeError("DataLoader worker ended") from error  # as torch says it

    def close(self) -> None:
        # torch has no public way to end persistent workers while an exception's trace may still refer to them
        if (iterator := self.loader._iterator) is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


@contextlib.contextmanager
def workers_alive() -> Iterator[None]:
    """Turn what a killed data worker looks like, wherever the loop is then, into a ChildProcessError of one line."""
    try:
        yield
    except RuntimeError as error:
        died = str(error).startswith(("DataLoader worker", "Pin memory thread"))
        if not died and "unable to allocate shared memory" not in str(error):
            raise
        raise ChildProcessError(
            "a data worker was killed or got no memory; memory or /dev/shm (in a container, --shm-size) may be short; "
            "`--resume` goes on from the last checkpoint"
        ) from error


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back here; processes started meanwhile hold them for good.

    Ctrl-C and job schedulers signal every process at once. Without its workers, or the server that forks them (Python's
    default from 3.14 on), the loop could not end as it should.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        multiprocessing.resource_tracker.ensure_running()  # which, as it starts, would let both through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (image, seed of its crop); the loop sets the epoch and the batch to start from."""

    def __init__(self, count: int, batch_size: int, seed: int, shard: Shard) -> None:
        self.count, self.batch_size, self.seed, self.shard = count, batch_size, seed, shard
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.count, self.seed, self.epoch)
        crops = torch.randint(2**62, (self.count,), generator=_generator(self.seed, self.epoch, stream=2))
        for first in range(self.start * self.batch_size, self.count, self.batch_size):
            mine = self.shard.of(first, min(first + self.batch_size, self.count))
            yield list(zip(order[mine].tolist(), crops[mine].tolist(), strict=True))


class _Transformed(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, images: Images, transform: TrainTransform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, crop_seed = key
        # the transform draws from the global state; give it the image's own
        with self.images.decoding(index) as image, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(crop_seed)
            return self.transform(image), int(self.images.labels[index])


def eval_batch_size(device: torch.device) -> int:
    """On a CPU the size that stays near its cache (measured); on a card what 2 GB hold without torch.compile."""
    return 250 if device.type == "cuda" else 128


def eval_batches(images: Images, norm: Normalization, size: int, device: torch.device) -> Iterator[Batch]:
    """The images in order, resized to 256 and cropped to the central ``size``, and their labels, on the device.

    Small squares of one size go through the matrices of the resident path, others through torchvision in threads.
    """
    step, labels = eval_batch_size(device), torch.from_numpy(images.labels).to(device)
    if not len(images):  # one of several processes, with fewer images than processes
        return
    if are_small(images):
        array = images.array()
        assert array is not None
        side = array.shape[1]
        normalize, crop = normalize_small(norm, side, device), centre_crop(side, RESIZE, size, device)
        for first in range(0, len(array), step):
            x = normalize(torch.from_numpy(array[first : first + step]).to(device))
            yield crop(x), labels[first : first + step]
        return
    transform = EvalTransform(size, norm)

    def read(index: int) -> np.ndarray:
        with images.decoding(index) as image:
            return transform.pixels(image)

    pixels = ahead(read, range(len(images)), 2 * step)
    for first in range(0, len(images), step):
        yield normalized(list(islice(pixels, step)), norm, device), labels[first : first + step]
