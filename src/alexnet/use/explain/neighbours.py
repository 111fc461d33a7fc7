"""The images of a split as vectors, in the space of fc7 and in pixels, and which of them lie nearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet import hardware
from alexnet.data.loaders import eval_batch_size, eval_batches
from alexnet.data.splits import Images
from alexnet.model import AlexNet_2012
from alexnet.use.evaluate import card_of
from alexnet.use.explain.attribution import hooked

__all__ = ["Features", "features", "features_of_inputs", "nearest"]

SMALL = 32  # side of the images whose pixels are compared


@dataclass(frozen=True)
class Features:
    """Images as vectors, on the CPU. Euclidean distances are what is meant to be taken between them."""

    fc7: Tensor
    """float32 ``[N, 4096]``: the last hidden layer, after its ReLU (the paper, section 6.1)."""
    pixels: Tensor
    """float32 ``[N, 3072]``: what the network sees, reduced to 32×32 by averaging and scaled so that the distance of
    two images is the root of their mean squared difference in grey levels, 0 to 255."""


def features(
    model: AlexNet_2012,
    images: Images,
    *,
    precision: str = "auto",
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda batches, _count: batches,
) -> Features:
    """The vectors of a split's images, in their order, computed where the model is.

    Args:
        precision: as a recipe has it.
        watch: is given the batches and their number, and hands them through; for a progress bar.

    Raises:
        ValueError: a damaged image, or a model that did not come from ``load_model``.
    """
    device = next(model.parameters()).device
    batches = eval_batches(images, card_of(model).normalization, model.variant.image_sizes[0], device)
    count = -(-len(images) // eval_batch_size(device))
    parts = [features_of_inputs(model, x, precision=precision) for x, _ in watch(batches, count)]
    return Features(torch.cat([part.fc7 for part in parts]), torch.cat([part.pixels for part in parts]))


@torch.inference_mode()
def features_of_inputs(model: AlexNet_2012, images: Tensor, *, precision: str = "auto") -> Features:
    """The vectors of a batch ``[N, 3, S, S]``, such as ``inputs`` gives."""
    fc7: list[Tensor] = []
    with (
        hooked(model, {"classifier.relu7": lambda output: fc7.append(output.float().cpu())}),
        hardware.autocast(images.device, hardware.pick_precision(precision, images.device)),
    ):
        model(images)
    whole = images.cpu() if images.device.type == "mps" else images  # which cannot where 32 does not divide the side
    grey_levels = 255 * torch.tensor(card_of(model).normalization.std, device=whole.device)[:, None, None]
    small = F.adaptive_avg_pool2d(whole, SMALL) * grey_levels
    return Features(fc7[0], small.flatten(1).cpu() / math.sqrt(small[0].numel()))


@torch.inference_mode()
def nearest(queries: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The candidates nearest to each query by Euclidean distance, the nearest first.

    Args:
        queries: float32 ``[Q, D]``; candidates: float32 ``[N, D]``, on one device.
        count: how many; fewer where there are fewer candidates.

    Returns:
        Distances float32 ``[Q, count]`` and places among the candidates int64 ``[Q, count]``.
    """
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product loses the digits of small distances
    distances = torch.cdist(queries, candidates, compute_mode=exact)  # [Q, N]
    found = distances.topk(min(count, len(candidates)), largest=False)
    return found.values, found.indices
