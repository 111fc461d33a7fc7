"""A network's answers to a whole split, kept: how often they are right, how sure they are, and where both part.

Reference: Guo et al. 2017, arXiv 1706.04599, section 2, for the calibration curve and its expected error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alexnet import hardware
from alexnet.data.loaders import eval_batch_size, eval_batches
from alexnet.data.splits import Images
from alexnet.model import AlexNet_2012
from alexnet.use.evaluate import card_of
from alexnet.use.explain.attribution import convolutions, hooked

__all__ = ["Answers", "Calibration", "answers", "calibration", "confident_errors"]

BINS = 15  # as in the reference


@dataclass(frozen=True)
class Answers:
    """What one pass over N images leaves, on the CPU and in the images' order."""

    logits: Tensor
    """float32 ``[N, classes]``."""
    labels: Tensor
    """int64 ``[N]``."""
    peaks: dict[str, Tensor]
    """The highest value of each feature map of each convolution, before its ReLU: float32 ``[N, channels]``."""

    @property
    def probabilities(self) -> Tensor:
        """float32 ``[N, classes]``."""
        return self.logits.softmax(1)


@torch.inference_mode()
def answers(
    model: AlexNet_2012,
    images: Images,
    *,
    precision: str = "auto",
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda batches, _count: batches,
) -> Answers:
    """One pass over a split's images, computed where the model is.

    Args:
        precision: as a recipe has it.
        watch: is given the batches and their number, and hands them through; for a progress bar.

    Raises:
        ValueError: a damaged image, or a model that did not come from ``load_model``.
    """
    device = next(model.parameters()).device
    batches = eval_batches(images, card_of(model).normalization, model.variant.image_sizes[0], device)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    peaks: dict[str, list[Tensor]] = {name: [] for name in convolutions(model)}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda output: peaks[name].append(output.amax((2, 3)).float().cpu())

    with (
        hooked(model, {f"features.{name}": keep(name) for name in peaks}),
        hardware.autocast(device, hardware.pick_precision(precision, device)),
    ):
        for x, y in watch(batches, -(-len(images) // eval_batch_size(device))):
            logits.append(model(x).float().cpu())
            labels.append(y.cpu())
    return Answers(torch.cat(logits), torch.cat(labels), {name: torch.cat(found) for name, found in peaks.items()})


def confident_errors(probabilities: Tensor, labels: Tensor, count: int = 8) -> list[int]:
    """The places of the wrong answers that were given with the highest probability, the surest first."""
    sure, answer = probabilities.max(1)
    wrong = (answer != labels).nonzero()[:, 0]
    return wrong[sure[wrong].argsort(descending=True, stable=True)][:count].tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Calibration:
    """How sure the answers were beside how often they were right, in bins of equal width that hold any image."""

    confidence: list[float]
    """Mean probability of the answer, 0 to 1, a bin."""
    accuracy: list[float]
    """Share of right answers, 0 to 1, a bin."""
    counts: list[int]
    """Images a bin."""
    expected_error: float
    """Mean over the images of their bin's |accuracy − confidence|, 0 to 1 (equation 3)."""


def calibration(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """The calibration of answers ``[N, classes]`` to ``labels`` ``[N]``, in ``bins`` of the answer's probability."""
    sure, answer = probabilities.double().max(1)
    right = (answer == labels).double()
    place = (sure * bins).ceil().long().clamp(1, bins) - 1  # bins (0, 1/15], (1/15, 2/15], …
    counts = torch.bincount(place, minlength=bins)
    held = counts > 0
    confidence, accuracy = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, each)[held] / counts[held] for each in (sure, right)
    )
    error = float(((accuracy - confidence).abs() * counts[held]).sum() / len(labels))
    return Calibration(confidence.tolist(), accuracy.tolist(), counts[held].tolist(), error)
