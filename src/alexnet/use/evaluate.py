"""A loaded model on a data set's images: the figures and the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from alexnet import hardware
from alexnet.data.loaders import eval_batch_size
from alexnet.data.splits import Dataset
from alexnet.model import AlexNet_2012
from alexnet.recipes import VIEWS
from alexnet.run.metrics import Metrics, measure, with_views
from alexnet.weights.card import ModelCard

__all__ = ["card_of", "evaluate", "format_evaluation"]

TERMINAL = 100  # columns
WIDEST = 20  # classes; a confusion matrix of more does not fit a terminal


def card_of(model: AlexNet_2012) -> ModelCard:
    """A loaded model's classes and input. ValueError for a model that did not come from ``load_model``."""
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise ValueError("the model does not know its classes and its input; get it from load_model")
    return card


def evaluate(
    model: AlexNet_2012,
    dataset: Dataset,
    views: str = "center",
    split: str = "val",
    *,
    device: str = "auto",
    precision: str = "auto",
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda batches, _count: batches,
) -> dict[str, Any]:
    """What a loaded model makes of a data set's validation or test images, as ``alexnet evaluate --json`` prints it.

    The model moves to the device and stays there.

    Args:
        views: ``center``, one view an image as in training; ``flip``, it and its mirror; or ``ten-crop``. Mirrors are
            left out for data whose mirrored images are of no class, such as digits.
        split: ``val``, or ``test`` where the data have both, or training images were held out to validate on.
        device, precision: as a recipe has them.
        watch: is given the batches and their number, and hands them through; for a progress bar.

    Returns:
        ``data``, ``split``, ``count``, ``loss`` (nats), ``top1`` and ``top5`` (percent), ``per_class`` (percent right,
        None for a class without images) and ``confusion`` (rows: truth, columns: answer).

    Raises:
        ValueError: unknown views; a split that the data do not have; classes that are not the model's; a device that is
            not present; a damaged image.
    """
    if views not in VIEWS:
        raise ValueError(f"--views {views}: allowed is one of {', '.join(VIEWS)}")
    card = card_of(model)
    name, images = dataset.eval_images(split)
    check_classes(dataset, card.classes)
    place = hardware.pick_device(device)
    model.to(place).to(memory_format=torch.channels_last)
    viewing, batches = with_views(model, model.variant, views, images, card.normalization, place, dataset.flip)
    metrics = Metrics(len(dataset.classes), place)
    with hardware.autocast(place, hardware.pick_precision(precision, place)):
        measure(viewing.eval(), watch(batches, -(-len(images) // eval_batch_size(place))), metrics)
    found = metrics.result(expected=len(images))
    confusion = found.pop("confusion")
    shares = [100 * row[i] / sum(row) if sum(row) else None for i, row in enumerate(confusion)]
    per_class = dict(zip(dataset.classes, shares, strict=True))
    return {"data": dataset.name, "split": name, **found, "per_class": per_class, "confusion": confusion}


def check_classes(dataset: Dataset, known: Sequence[str]) -> None:
    """ValueError, naming the difference, where a data set's classes are not ``known``, in the same order."""
    if dataset.classes == tuple(known):
        return
    sides = {"the data": dataset.classes, "the model": tuple(known)}
    others = {"the data": tuple(known), "the model": dataset.classes}
    parts = []
    for side, names in sides.items():
        if only := [name for name in names if name not in others[side]]:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            parts.append(f"only {side} has {', '.join(only[:5])}{more}")
    difference = "; ".join(parts) or "they are the same in another order"
    raise ValueError(f"--data {dataset.spec}: its classes are not those of the model: {difference}")


def format_evaluation(found: dict[str, Any], views: str) -> str:
    """What ``evaluate`` found, as text: the figures, a line a class, and the confusion matrix where it fits."""
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
