"""Measuring a trained network on a data set, and classifying image files with it.

>>> from alexnet import load_model
>>> from alexnet.evaluate import predict
>>> for prediction in predict(load_model("cifar10-small"), ["cat.jpg"]):
...     print(prediction.file, prediction.top)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from alexnet.data.datasets import Dataset
from alexnet.data.images import ImageError, open_image, prefetch
from alexnet.data.loaders import Batch, eval_batch_size, eval_batches
from alexnet.data.normalization import RESIZE, central_pixels, normalized
from alexnet.errors import FieldError, check_choice
from alexnet.model import AlexNet_2012, ModelInfo
from alexnet.recipes import TTA
from alexnet.system import autocast, pick_device, pick_precision, sum_dtype

__all__ = [
    "Metrics", "Prediction", "TestTimeAugmentation", "check_classes", "evaluate", "format_evaluation", "info_of",
    "measure", "predict", "progress_bar",
]  # fmt: skip

TERMINAL_COLUMNS = 100
MAX_CONFUSION_CLASSES = 20  # a confusion matrix of more does not fit a terminal


class Metrics:
    """Sums over images, on the device: loss, top-1, top-5 and the confusion matrix."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.loss = torch.zeros((), device=device, dtype=sum_dtype(device))
        self.top5 = torch.zeros((), device=device, dtype=torch.int64)
        self.confusion = torch.zeros(num_classes, num_classes, device=device, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits ``[B, classes]`` of any float dtype, labels ``[B]`` int64."""
        logits = logits.float()
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        top = logits.topk(min(5, self.num_classes), dim=1).indices  # [B, 5]
        self.top5 += (top == labels[:, None]).sum()
        pairs = labels * self.num_classes + logits.argmax(1)
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes; ``all_reduce`` sums one tensor."""
        self.loss, self.top5, self.confusion = map(all_reduce, (self.loss, self.top5, self.confusion))

    def result(self, expected: int) -> dict[str, Any]:
        """``count``, ``loss`` (nats), ``top1``, ``top5`` (percent) and ``confusion`` (rows: labels).

        Raises:
            RuntimeError: the number of images is not ``expected``.
        """
        count = int(self.confusion.sum())
        if count != expected:
            raise RuntimeError(f"evaluated {count} images, but the split has {expected}")
        return {
            "count": count,
            "loss": self.loss.item() / count,
            "top1": 100 * int(self.confusion.diagonal().sum()) / count,
            "top5": 100 * int(self.top5) / count,
            "confusion": self.confusion.tolist(),
        }


class TestTimeAugmentation(nn.Module):
    """The mean softmax of a network over several crops of each image.

    From ``[N, 3, S, S]`` images larger than ``size``: the four corners, the centre and their mirror images (the paper,
    section 4.1). From images of that size: the image and its mirror image. Without ``mirror``, no mirror images.
    Returns log-probabilities ``[N, classes]``, which can be used as logits: their softmax is the mean itself.
    """

    __test__ = False  # not a test of pytest's

    def __init__(self, model: nn.Module, size: int, *, mirror: bool = True) -> None:
        super().__init__()
        self.model, self.size, self.mirror = model, size, mirror

    def forward(self, images: Tensor) -> Tensor:
        margin = images.shape[-1] - self.size
        middle = round(margin / 2)
        corners = ((0, 0), (0, margin), (margin, 0), (margin, margin), (middle, middle)) if margin else ((0, 0),)
        views = []
        for top, left in corners:
            crop = images[..., top : top + self.size, left : left + self.size]
            for view in (crop, crop.flip(-1)) if self.mirror else (crop,):
                views.append(F.log_softmax(self.model(view).float(), dim=1))
        return torch.logsumexp(torch.stack(views), dim=0) - math.log(len(views))


@torch.inference_mode()
def measure(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor] | None],
    metrics: Metrics,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Add one pass over ``batches`` to ``metrics``, in evaluation mode; the mode of each layer is restored.

    A batch may be None, if this process has no images left. Returns False if ``interrupted()``, which is
    called before each batch, was true.
    """
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    try:
        for batch in batches:
            if interrupted():
                return False
            if batch is not None:
                images, labels = batch
                metrics.add(model(images), labels)
    finally:
        for layer, mode in modes.items():
            layer.training = mode
    return True


def info_of(model: AlexNet_2012) -> ModelInfo:
    """The classes and input of a trained network. ValueError if they are not known."""
    if (info := model.info) is None:
        raise ValueError("the model does not describe its classes and input; set model.info to a ModelInfo")
    return info


def evaluate(
    model: AlexNet_2012,
    dataset: Dataset,
    tta: str = "center",
    split: str = "val",
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained network on the validation or test images of a data set. The model moves to the device.

    The mode of each layer, training or evaluation, is restored.

    Args:
        tta: test-time augmentation: ``center``, one crop an image, as in training; ``flip``, it and its mirror image;
            ``ten-crop``. Mirror images are left out for data whose mirror images belong to no class, such as digits.
        split: ``val``, or ``test`` if the data set has one.
        device, precision: as in ``Runtime``.
        progress: show a progress bar on a terminal.

    Returns:
        ``data``, ``split``, ``count``, ``loss`` (nats), ``top1`` and ``top5`` (percent), ``per_class`` (percent, None
        for a class without images) and ``confusion`` (rows: label, columns: prediction).

    Raises:
        ValueError: a value that is not allowed, a split that the data set lacks, classes that are not the model's, a
            damaged image.
    """
    check_choice("tta", tta, TTA)
    info = info_of(model)
    name, images = dataset.eval_images(split)
    check_classes(dataset, info.classes)
    torch_device, size = pick_device(device), model.variant.image_sizes[0]
    model.to(torch_device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = eval_batches(images, info.normalization, RESIZE if tta == "ten-crop" else size, torch_device)
    tta_model = model if tta == "center" else TestTimeAugmentation(model, size, mirror=dataset.flip)
    metrics = Metrics(len(dataset.classes), torch_device)
    with autocast(torch_device, pick_precision(precision, torch_device)):
        measure(tta_model, progress_bar(batches, len(images), torch_device) if progress else batches, metrics)
    found = metrics.result(expected=len(images))
    confusion = found.pop("confusion")
    shares = [100 * row[i] / sum(row) if sum(row) else None for i, row in enumerate(confusion)]
    per_class = dict(zip(dataset.classes, shares, strict=True))
    return {"data": dataset.name, "split": name, **found, "per_class": per_class, "confusion": confusion}


def progress_bar(batches: Iterator[Batch], count: int, device: torch.device, title: str | None = None) -> Any:
    """The batches of ``count`` images, with a bar on standard error if it is a terminal."""
    total = -(-count // eval_batch_size(device))
    return tqdm(batches, title, total=total, unit="batch", leave=False, disable=None)  # None: only on a terminal


def check_classes(dataset: Dataset, expected: Sequence[str]) -> None:
    """``FieldError``, which names the difference, if a data set's classes are not ``expected``, in the same order."""
    names = list(dataset.classes)
    if names == list(expected):
        return
    extra, missing = sorted(set(names) - set(expected)), sorted(set(expected) - set(names))
    parts = [f"{what} {', '.join(each[:5])}" for what, each in (("extra", extra), ("missing", missing)) if each]
    requirement = f"a data set with the model's classes ({'; '.join(parts) or 'they are in another order'})"
    raise FieldError("data", requirement, dataset.spec)


def format_evaluation(found: dict[str, Any], tta: str) -> str:
    """The result of ``evaluate`` as text: the metrics, a line for each class, and the confusion matrix if it fits."""
    names, matrix = list(found["per_class"]), found["confusion"]
    width = max(map(len, [*names, "class"]))
    lines = [
        f"{found['data']}, {found['split']}: {found['count']:,} images, test-time augmentation: {tta}",
        f"top1 {found['top1']:.2f}%  top5 {found['top5']:.2f}%  loss {found['loss']:.4f}",
        "",
        f"{'class':{width}}  images  correct  most often confused with",
    ]
    for i, (name, share) in enumerate(found["per_class"].items()):
        total = sum(matrix[i])
        other = max((j for j in range(len(names)) if j != i), key=lambda j: matrix[i][j])
        confused = f"{names[other]} ({100 * matrix[i][other] / total:.1f}%)" if total and matrix[i][other] else "-"
        lines.append(f"{name:{width}}  {total:>6}  {'-' if share is None else f'{share:.1f}%':>7}  {confused}")
    if len(names) > MAX_CONFUSION_CLASSES:
        return "\n".join(lines)
    needed, room = len(str(max(map(max, matrix)))) + 1, (TERMINAL_COLUMNS - width) // len(names)
    cell = max(needed, 4, min(room, 1 + max(map(len, names))))
    lines += ["", "confusion matrix: a row for each class, a column for each prediction"]
    lines.append(" " * width + "".join(f" {name[: cell - 1]:>{cell - 1}}" for name in names))
    lines += [f"{name:{width}}" + "".join(f"{n:>{cell}}" for n in row) for name, row in zip(names, matrix, strict=True)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image file, or why it could not be read."""

    file: str
    top: list[tuple[str, float]]
    """Class names and probabilities (0 to 1), the most probable first; empty if there is an ``error``."""
    error: str | None = None
    """One line that names the file and what is wrong with it."""


def predict(
    model: AlexNet_2012,
    files: Iterable[str | Path],
    top_k: int | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
) -> Iterator[Prediction]:
    """Classify image files, in order, with a network from ``load_model``. The model moves to the device.

    Threads decode at most three batches ahead of the results, so any number of files fits in memory. A file that cannot
    be read gives a ``Prediction`` with an ``error``, and the others continue.

    Args:
        top_k: classes per image; by default 5, or all if there are fewer.

    Raises:
        FieldError: more classes than the model has, or a device that is not available.
        ValueError: the model does not describe its input.
    """
    info = info_of(model)
    if top_k is None:
        top_k = min(5, info.num_classes)
    if not 1 <= top_k <= info.num_classes:
        raise FieldError("top_k", f"between 1 and the model's {info.num_classes} classes", top_k)
    if batch_size < 1:
        raise FieldError("batch_size", "1 or more", batch_size)
    torch_device = pick_device(device)
    precision = pick_precision(precision, torch_device)
    model.to(torch_device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    size, norm = model.variant.image_sizes[0], info.normalization

    def read(file: str | Path) -> tuple[str, np.ndarray | ImageError]:
        try:
            return os.fspath(file), central_pixels(open_image(file), size, norm.resize)
        except ImageError as error:
            hint = f"; name the images in it, such as {file}/*" if Path(file).is_dir() else ""
            return os.fspath(file), ImageError(f"{error}{hint}")

    def predictions() -> Iterator[Prediction]:
        decoded = prefetch(read, files, 2 * batch_size)
        while batch := list(islice(decoded, batch_size)):
            pixels = [image for _, image in batch if isinstance(image, np.ndarray)]
            if pixels:
                images = normalized(pixels, norm, torch_device)
                with torch.inference_mode(), autocast(torch_device, precision):
                    best = model(images).float().softmax(1).topk(top_k, dim=1)
                tops = iter(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            for file, image in batch:
                if isinstance(image, ImageError):
                    yield Prediction(file, [], str(image))
                else:
                    indices, values = next(tops)
                    yield Prediction(file, [(info.classes[i], p) for i, p in zip(indices, values, strict=True)])

    return predictions()  # so that the arguments are checked at once
