"""Classifying image files: decoded ahead in threads, answered in batches and in order.

from alexnet import load_model
from alexnet.use.predict import predict
for answer in predict(load_model("runs/x"), ["cat.jpg", "dog.png"]):
    print(answer.file, answer.top)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from alexnet import hardware
from alexnet.data.images import ImageError, ahead, decoding
from alexnet.data.normalization import normalized
from alexnet.data.transforms import EvalTransform
from alexnet.model import AlexNet_2012
from alexnet.use.evaluate import card_of

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one file: its most probable classes, or why there is none."""

    file: str
    top: list[tuple[str, float]]
    """Class names and probabilities (0 to 1), the most probable first; empty where there is an ``error``."""
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
    """Classify image files, in their order, with a model that ``load_model`` gave.

    Files are read in threads while the network works, never more than three batches ahead of the answers, so any number
    of files fits in memory. A file that cannot be read gets an answer with an ``error``; the others are not held up.
    The model moves to the device and stays there.

    Args:
        top_k: classes an answer; by default 5, or all where there are fewer.

    Raises:
        ValueError: more classes asked for than there are; a device that is not present; a model without its card.
    """
    card = card_of(model)
    if top_k is None:
        top_k = min(5, card.num_classes)
    if not 1 <= top_k <= card.num_classes:
        raise ValueError(
            f"--top-k {top_k}: the model knows {card.num_classes} classes; allowed is 1 to {card.num_classes}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: allowed is 1 or more")
    place = hardware.pick_device(device)
    return _answers(model, files, top_k, place, hardware.pick_precision(precision, place), batch_size)


def _answers(
    model: AlexNet_2012,
    files: Iterable[str | Path],
    top_k: int,
    device: torch.device,
    precision: str,
    batch_size: int,
) -> Iterator[Prediction]:
    model.to(device).to(memory_format=torch.channels_last).eval()
    transform = EvalTransform(model.variant.image_sizes[0], card_of(model).normalization)

    def read(file: str | Path) -> tuple[str, np.ndarray | str]:
        try:
            with decoding(file) as image:
                return os.fspath(file), transform.pixels(image)
        except ImageError as error:
            hint = f"; name the images in it, such as {file}/*" if Path(file).is_dir() else ""
            return os.fspath(file), f"{error}{hint}"

    images = ahead(read, files, 2 * batch_size)
    while batch := list(islice(images, batch_size)):
        pixels = [image for _, image in batch if not isinstance(image, str)]
        tops = iter(_classify(model, pixels, top_k, device, precision) if pixels else ())
        for file, image in batch:
            yield Prediction(file, [], image) if isinstance(image, str) else Prediction(file, next(tops))


@torch.inference_mode()
def _classify(
    model: AlexNet_2012, pixels: list[np.ndarray], top_k: int, device: torch.device, precision: str
) -> list[list[tuple[str, float]]]:
    card = card_of(model)
    images = normalized(pixels, card.normalization, device)
    with hardware.autocast(device, precision):
        logits = model(images)
    found = logits.float().softmax(1).topk(top_k, dim=1)
    return [
        [(card.classes[index], value) for index, value in zip(indices, values, strict=True)]
        for indices, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
