"""The two sides of the comparison: the usual way to train AlexNet at 224×224, and this project's.

Each has the same measures as methods; a method does its work once and gives its figure, in the unit of
``compare.UNITS``.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from alexnet import hardware, recipes
from alexnet.data import datasets
from alexnet.data.loaders import eval_batches
from alexnet.data.normalization import IMAGENET
from alexnet.data.splits import Images
from alexnet.data.stores import Pixels
from alexnet.lrn import local_response_norm
from alexnet.model import AlexNet_2012
from alexnet.run.metrics import Metrics, measure
from alexnet.run.session import open_session
from alexnet.train import train_step
from alexnet.use.predict import predict

BATCH = 128
LRN_SHAPE = (BATCH, 96, 55, 55)
# Of more than the machine has cores torch says that they are too many. Forked, as on Linux: a spawned side would spawn.
WORKERS = {"num_workers": min(4, os.cpu_count() or 1), "multiprocessing_context": "fork"}


def load(spec: str) -> datasets.Dataset:
    """A data set with its images decoded, as CIFAR-10 is kept; ``synthetic`` is noise of CIFAR-10's shape."""
    if spec != "synthetic":
        dataset = datasets.load(spec)
        return replace(dataset, train=decoded(dataset.train), val=decoded(dataset.val))
    random = np.random.default_rng(0)

    def split(count: int) -> Images:
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Images(random.integers(0, 10, count), Pixels(pixels, "noise"))

    names = tuple(str(n) for n in range(10))
    return datasets.Dataset(spec, "synthetic 32×32", names, split(50_000), split(10_000), "test", flip=True)


def make_plain(net: nn.Module, layout: torch.memory_format = torch.contiguous_format) -> None:
    """Give ``classic`` torch's response normalisation, and a memory layout."""
    for name in ("norm1", "norm2"):
        setattr(net.features, name, nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
    net.to(memory_format=layout)


def decoded(images: Images) -> Images:
    array = images.array()
    return images if array is None else Images(images.labels, Pixels(array, "decoded"))


class Baseline:
    """The usual way."""

    def __init__(self, spec: str, device: torch.device, files: list[Path]) -> None:
        self.device, self.files = device, files
        self.quick = device.type == "cuda"
        self.dataset = dataset = load(spec)
        mean, std = IMAGENET.mean, IMAGENET.std
        last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        flip = [transforms.RandomHorizontalFlip()]
        train = [transforms.Resize(256), transforms.RandomResizedCrop(224, scale=(0.8, 1.0)), *flip, *last]
        self.eval_transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *last])
        self.loader = self._loader(Pictures(dataset.train, transforms.Compose(train)), shuffle=True)
        self.val_loader = self._loader(Pictures(dataset.val, self.eval_transform), shuffle=False)
        torch.manual_seed(0)
        self.net = AlexNet_2012(len(dataset.classes), init="zero-bias").to(device)
        make_plain(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 5083)
        self.train_batches = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def _loader(self, images: TorchDataset, *, shuffle: bool) -> DataLoader:
        return DataLoader(images, BATCH, shuffle=shuffle, pin_memory=self.quick, **WORKERS)

    def train_step(self) -> float:
        steps = 30 if self.quick else 4

        def work() -> None:
            self.net.train()
            for _ in range(steps):
                images, labels = (t.to(self.device) for t in next(self.train_batches))
                self.optimizer.zero_grad()
                logits = self.net(images)
                loss = cross_entropy(logits, labels)
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                loss.item(), (logits.argmax(1) == labels).sum().item()

        return clock(self.device, work) / steps

    def data_path(self) -> float:
        batches = 40 if self.quick else 16
        feed = iter(self.loader)
        next(feed)  # the workers have started
        return BATCH * batches / clock(self.device, lambda: take(feed, batches))

    def lrn(self) -> float:
        x = torch.randn(LRN_SHAPE, device=self.device).relu().requires_grad_()
        norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
        return lrn_milliseconds(x, norm)

    lrn_float32 = lrn

    @torch.no_grad()
    def validation(self) -> float:
        self.net.eval()
        count = len(self.val_loader) - 1 if self.quick else 6
        seen, seconds = 0, 0.0
        for _ in range(2):  # once for accuracy, once for loss
            feed = iter(self.val_loader)
            next(feed)  # the workers have started

            def work(feed: Any = feed) -> None:
                nonlocal seen
                for images, labels in itertools.islice(feed, count):
                    logits = self.net(images.to(self.device))
                    cross_entropy(logits, labels.to(self.device)).item()
                    seen += len(labels)

            seconds += clock(self.device, work)
        return seconds * 2 * len(self.dataset.val) / seen

    @torch.no_grad()
    def inference(self) -> float:
        self.net.eval()
        loader = DataLoader(Files(self.files, self.eval_transform), BATCH, **WORKERS)
        return len(self.files) / clock(
            self.device, lambda: [self.net(x.to(self.device)).argmax(1).tolist() for x in loader]
        )

    def peak_memory(self) -> float:
        return peak_memory(self.device)


class Pictures(TorchDataset):
    """Images of a dataset as the transform wants them."""

    def __init__(self, images: datasets.Images, transform: Callable) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images.image(i)), int(self.images.labels[i])


class Files(TorchDataset):
    """Images of files."""

    def __init__(self, files: list[Path], transform: Callable) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[i]).convert("RGB"))


class Ours:
    """What ``alexnet train classic`` does, by the same parts."""

    def __init__(self, spec: str, device: torch.device, files: list[Path]) -> None:
        hardware.keep_freed_memory()
        self.device, self.files = device, files
        self.quick = device.type == "cuda"
        dataset = load(spec)
        self.s = open_session(recipes.classic(), Path(), dataset, device)
        self.s.net.card = self.s.card
        self.feed = self.s.batches.train(0)

    def train_step(self) -> float:
        steps = 200 if self.quick else 8
        s = self.s

        def work() -> None:
            s.model.train()
            for _, (images, labels) in zip(range(steps), self.feed, strict=False):
                train_step(s, images, labels)

        if self.quick:
            self.feed = s.batches.train(0)
        return clock(self.device, work) / steps

    def data_path(self) -> float:
        batches = 300 if self.quick else 40
        feed = self.s.batches.train(0)
        next(feed)
        return BATCH * batches / clock(self.device, lambda: take(feed, batches))

    def lrn(self) -> float:
        return self._lrn(torch.bfloat16 if self.s.accelerator.mixed_precision == "bf16" else torch.float32)

    def lrn_float32(self) -> float:
        return self._lrn(torch.float32)

    def _lrn(self, dtype: torch.dtype) -> float:
        x = torch.randn(LRN_SHAPE, device=self.device, dtype=dtype).relu()
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        norm = torch.compile(local_response_norm) if self.s.compiled else local_response_norm
        return lrn_milliseconds(x, norm)

    def validation(self) -> float:
        metrics = Metrics(10, self.device)
        batches = eval_batches(self.s.dataset.val, self.s.card.normalization, 224, self.device)
        batches = batches if self.quick else itertools.islice(batches, 8)
        seconds = clock(self.device, lambda: measure(self.s.eval_model, batches, metrics))
        return seconds * len(self.s.dataset.val) / int(metrics.confusion.sum())

    def inference(self) -> float:
        self.s.net.eval()
        return len(self.files) / clock(
            self.device, lambda: list(predict(self.s.net, self.files, device=self.device.type))
        )

    def peak_memory(self) -> float:
        return peak_memory(self.device)

    def copy_rate(self) -> float:
        """GB/s read and written by copying a tensor of response normalisation's shape: what it is held against."""
        x = torch.randn(LRN_SHAPE, device=self.device, dtype=torch.bfloat16)
        y = torch.empty_like(x)
        count = 200 if self.quick else 10
        y.copy_(x)
        return 2 * x.nbytes * count / clock(self.device, lambda: [y.copy_(x) for _ in range(count)]) / 1e9

    def matrix_rate(self) -> float:
        """TFLOP/s of one large bf16 product: the rate that a step is held against."""
        n = 8192 if self.quick else 4096
        a, b = (torch.randn(n, n, device=self.device).bfloat16() for _ in range(2))
        a @ b
        return 2 * n**3 / clock(self.device, lambda: a @ b) / 1e12


def clock(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of ``work``, the device's own work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def take(feed: Iterator[Any], count: int) -> None:
    """Use up so many batches, one at a time, as training does."""
    for _ in range(count):
        next(feed)


def lrn_milliseconds(x: torch.Tensor, norm: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Milliseconds of one forward and backward."""
    grad = torch.randn_like(x)
    count = 50 if x.device.type == "cuda" else 3

    def work() -> None:
        for _ in range(count):
            x.grad = None
            norm(x).backward(grad)

    work()
    return 1000 * clock(x.device, work) / count


def peak_memory(device: torch.device) -> float:
    """GiB at the most so far: of the device, or of this process, with what its workers have of their own by now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + sum(unshared(child.pid or 0) for child in multiprocessing.active_children())) / 2**20


def unshared(pid: int) -> int:
    """KiB that a process shares with no other."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
