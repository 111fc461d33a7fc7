"""A loaded model on a data set's validation images: the figures, the tables, and the views they are taken from."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import hardware
from alexnet.card import ModelCard, Normalization
from alexnet.data.pipeline import small_normalize, val_batch_size
from alexnet.data.resident import CropMatrices, centre_box
from alexnet.data.sources import Images, Source
from alexnet.data.statistics import are_small
from alexnet.data.transforms import RESIZE, EvalTransform, Normalize
from alexnet.evaluate import Metrics, evaluate
from alexnet.model import AlexNet_2012, Variant

__all__ = ["VIEWS", "ManyViews", "ahead", "card_of", "format_score", "normalized", "score", "val_batches", "with_views"]

VIEWS = ("center", "flip", "ten-crop")
TERMINAL = 100  # columns
WIDEST = 20  # classes; a confusion matrix of more does not fit a terminal

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


class ManyViews(nn.Module):
    """The mean of a network's softmax over several views of each image.

    Of ``[N, 3, S, S]`` images larger than the network's ``size``: the four corners, the centre, and their mirrors (the
    paper, 4.1); of images of that size: the image and its mirror. Without ``mirror``, the same without mirrors. Gives
    log-probabilities ``[N, classes]``, which serve as logits: their softmax is the mean itself.
    """

    def __init__(self, model: nn.Module, size: int, *, mirror: bool = True) -> None:
        super().__init__()
        self.model, self.size, self.mirror = model, size, mirror

    def forward(self, images: Tensor) -> Tensor:
        far = images.shape[-1] - self.size
        middle = round(far / 2)
        views = []
        for top, left in ((0, 0), (0, far), (far, 0), (far, far), (middle, middle)) if far else ((0, 0),):
            crop = images[..., top : top + self.size, left : left + self.size]
            for view in (crop, crop.flip(-1)) if self.mirror else (crop,):
                views.append(F.log_softmax(self.model(view).float(), dim=1))
        return torch.logsumexp(torch.stack(views), dim=0) - math.log(len(views))


def with_views(
    model: nn.Module,
    variant: Variant,
    views: str,
    images: Images,
    norm: Normalization,
    device: torch.device,
    mirror: bool,
) -> tuple[nn.Module, Iterator[tuple[Tensor, Tensor]]]:
    """A model that averages over ``views``, one of ``VIEWS``, and the batches of ``images`` that it wants."""
    size = variant.image_sizes[0]
    batches = val_batches(images, norm, RESIZE if views == "ten-crop" else size, device)
    return (model if views == "center" else ManyViews(model, size, mirror=mirror)), batches


class _Autocast(nn.Module):
    """A network in some precision; what makes its batches stays outside, in float32."""

    def __init__(self, net: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.net, self.device, self.precision = net, device, hardware.pick_precision(precision, device)

    def forward(self, images: Tensor) -> Tensor:
        with hardware.autocast(self.device, self.precision):
            return self.net(images)  # type: ignore[no-any-return]


def card_of(model: AlexNet_2012) -> ModelCard:
    """A loaded model's classes and input. ValueError for a model that did not come from ``load_model``."""
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise ValueError("the model does not know its classes and its input; get it from load_model")
    return card


def score(
    model: AlexNet_2012,
    source: Source,
    views: str = "center",
    *,
    device: str = "auto",
    precision: str = "auto",
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda batches, _count: batches,
) -> dict[str, Any]:
    """What a loaded model makes of a data set's validation images, as ``alexnet evaluate --json`` prints it.

    Args:
        views: ``center``, one view an image as in training; ``flip``, it and its mirror; or ``ten-crop``. Mirrors are
            left out for data whose mirrored images are of no class, such as digits.
        device, precision: as a recipe has them.
        watch: is given the batches and their number, and hands them through; for a progress bar.

    Returns:
        ``data``, ``split``, ``count``, ``loss`` (nats), ``top1`` and ``top5`` (percent), ``per_class`` (percent right,
        None for a class without images) and ``confusion`` (rows: truth, columns: answer).

    Raises:
        ValueError: unknown views; classes that are not the model's; a device that is not present; a damaged image.
    """
    if views not in VIEWS:
        raise ValueError(f"--views {views}: allowed is one of {', '.join(VIEWS)}")
    card, count = card_of(model), len(source.val)
    check_classes(source, card.classes)
    place = hardware.pick_device(device)
    model.to(place).to(memory_format=torch.channels_last)
    net = _Autocast(model, place, precision)
    viewing, batches = with_views(net, model.variant, views, source.val, card.normalization, place, source.flip)
    metrics = Metrics(len(source.classes), place)
    evaluate(viewing.eval(), watch(batches, -(-count // val_batch_size(place))), metrics)
    found = metrics.result(expected=count)
    confusion = found.pop("confusion")
    shares = [100 * row[i] / sum(row) if sum(row) else None for i, row in enumerate(confusion)]
    per_class = dict(zip(source.classes, shares, strict=True))
    return {"data": source.name, "split": source.val_split, **found, "per_class": per_class, "confusion": confusion}


def check_classes(source: Source, known: Sequence[str]) -> None:
    """ValueError, naming the difference, where a data set's classes are not ``known``, in the same order."""
    if source.classes == tuple(known):
        return
    sides = {"the data": source.classes, "the model": tuple(known)}
    others = {"the data": tuple(known), "the model": source.classes}
    parts = []
    for side, names in sides.items():
        if only := [name for name in names if name not in others[side]]:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            parts.append(f"only {side} has {', '.join(only[:5])}{more}")
    difference = "; ".join(parts) or "they are the same in another order"
    raise ValueError(f"--data {source.spec}: its classes are not those of the model: {difference}")


def val_batches(
    images: Images, norm: Normalization, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, as ``EvalTransform(size, norm)`` gives them, and their labels, in batches on the device.

    Small squares of one size go through the resident path, others through torchvision's transforms in threads.
    """
    step, labels = val_batch_size(device), torch.from_numpy(images.labels).to(device)
    if are_small(images):
        array = images.array()
        assert array is not None
        normalize, side = small_normalize(norm, array.shape[1], device), array.shape[1]
        matrices = CropMatrices(side, RESIZE, size, size, device)
        boxes = centre_box(step, RESIZE, size).to(device)
        for first in range(0, len(array), step):
            x = normalize(torch.from_numpy(array[first : first + step]).to(device))
            yield matrices.apply(x, boxes[: len(x)]), labels[first : first + step]
        return
    transform = EvalTransform(size, norm)
    pixels = ahead(lambda index: np.asarray(transform.pixels(images.image(index))), range(len(images)), 2 * step)
    for first in range(0, len(images), step):
        yield normalized(list(islice(pixels, step)), norm, device), labels[first : first + step]


def normalized(pixels: Sequence[np.ndarray], norm: Normalization, device: torch.device) -> Tensor:
    """uint8 images ``[H, W, 3]`` of one size to a normalised float32 batch ``[N, 3, H, W]``, channels last."""
    batch = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
    return Normalize(norm, batch.shape[-1], device)(batch)


def ahead(work: Callable[[_Item], _Done], items: Iterable[_Item], most: int) -> Iterator[_Done]:
    """``work`` of each item, in order, done in threads up to ``most`` items ahead of whoever takes the results."""
    waiting: deque[Future[_Done]] = deque()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where nobody takes the rest
            for future in waiting:
                future.cancel()


def format_score(found: dict[str, Any], views: str) -> str:
    """What ``score`` found, as text: the figures, a line a class, and the confusion matrix where it fits."""
    names, matrix = list(found["per_class"]), found["confusion"]
    lines = [
        f"{found['data']}, {found['split']}: {found['count']:,} images, {views} view{'s' * (views != 'center')}",
        f"top1 {found['top1']:.2f}%  top5 {found['top5']:.2f}%  loss {found['loss']:.4f}",
        "",
    ]
    wide = max(map(len, [*names, "class"]))
    lines.append(f"{'class':{wide}}  images   right  most often taken for")
    for i, (name, share) in enumerate(found["per_class"].items()):
        total = sum(matrix[i])
        wrong = max((j for j in range(len(names)) if j != i), key=lambda j: matrix[i][j])
        taken = f"{names[wrong]} ({100 * matrix[i][wrong] / total:.1f}%)" if total and matrix[i][wrong] else "-"
        lines.append(f"{name:{wide}}  {total:>6}  {'-' if share is None else f'{share:.1f}%':>6}  {taken}")
    if len(names) > WIDEST:
        return "\n".join(lines)
    least, room = len(str(max(map(max, matrix)))) + 1, (TERMINAL - wide) // len(names)
    cell = max(least, 4, min(room, 1 + max(map(len, names))))
    lines += ["", "confusion matrix: a row for each true class, a column for each answer"]
    lines.append(" " * wide + "".join(f" {name[: cell - 1]:>{cell - 1}}" for name in names))
    lines += [f"{name:{wide}}" + "".join(f"{n:>{cell}}" for n in row) for name, row in zip(names, matrix, strict=True)]
    return "\n".join(lines)
