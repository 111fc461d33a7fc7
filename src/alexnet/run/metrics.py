"""What a network is measured by: sums over images, divided once by their count, and the views of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.loaders import eval_batches
from alexnet.data.normalization import RESIZE, Normalization
from alexnet.data.splits import Images
from alexnet.model import Variant

__all__ = ["ManyViews", "Metrics", "Running", "measure", "with_views"]


class Metrics:
    """Running sums on the device: loss, top-1, top-5 and the confusion matrix. Nothing is read back until asked for."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.loss = torch.zeros((), device=device, dtype=wide)
        self.top5 = torch.zeros((), device=device, dtype=torch.int64)
        self.confusion = torch.zeros(num_classes, num_classes, device=device, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits ``[B, classes]`` of any float dtype, labels ``[B]`` int64."""
        logits = logits.float()
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        top = logits.topk(min(5, self.num_classes), dim=1).indices  # [B, 5]
        self.top5 += (top == labels[:, None]).sum()
        pairs = labels * self.num_classes + logits.argmax(1)
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def reduce(self, across: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes; ``across`` sums one tensor."""
        self.loss, self.top5, self.confusion = across(self.loss), across(self.top5), across(self.confusion)

    def result(self, expected: int) -> dict[str, Any]:
        """``count``, ``loss`` (nats), ``top1``, ``top5`` (percent) and ``confusion`` (rows: truth, columns: answer).

        Raises:
            RuntimeError: the images seen are not the ``expected`` ones in number.
        """
        count = int(self.confusion.sum())
        if count != expected:
            raise RuntimeError(f"evaluation saw {count} images, but the split holds {expected}")
        return {
            "count": count,
            "loss": self.loss.item() / count,
            "top1": 100 * int(self.confusion.diagonal().sum()) / count,
            "top5": 100 * int(self.top5) / count,
            "confusion": self.confusion.tolist(),
        }


@torch.inference_mode()
def measure(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor] | None],
    metrics: Metrics,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """One pass of ``batches`` (images on the model's device, labels) into ``metrics``, in evaluation mode.

    None in place of a batch is a turn in which this process has none. Returns False if ``interrupted``, asked at each
    turn, said to stop before the end. The model's mode is put back.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            if interrupted():
                return False
            if batch is not None:
                images, labels = batch
                metrics.add(model(images), labels)
    finally:
        model.train(was_training)
    return True


class Running:
    """Training loss and accuracy since the last logged row, summed on the device, and the first step gone wrong."""

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(3, device=device, dtype=wide)  # loss · images, right answers, images
        self.grad_norm = torch.zeros((), device=device)
        self.bad_step = torch.zeros((), device=device, dtype=torch.int64)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, grad_norm: Tensor, step: int) -> None:
        """Count one step: its mean loss, ``logits`` ``[B, classes]``, and the gradient's norm before clipping.

        It has gone wrong where the loss or that norm is NaN or infinite.
        """
        images = len(labels)
        right = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.to(self.sums.dtype) * images, right, torch.full_like(right, images)])
        self.grad_norm = grad_norm
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self.bad_step = torch.where((self.bad_step == 0) & bad, step, self.bad_step)

    def read(self, across: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """``train_loss`` (nats), ``train_acc`` (percent), ``grad_norm`` of the last step and the number of ``images``.

        ``across`` sums a tensor over processes. Waits for the device.
        """
        loss, right, images = across(self.sums).tolist()
        return {
            "train_loss": loss / images,
            "train_acc": 100 * right / images,
            "grad_norm": float(self.grad_norm),
            "images": images,
        }

    def reset(self) -> None:
        self.sums.zero_()

    def state_dict(self, across: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {"sums": across(self.sums), "grad_norm": self.grad_norm}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums.copy_(state["sums"])
        self.grad_norm = state["grad_norm"].to(self.sums.device)


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
    """A model that averages over ``views``, one of ``recipes.VIEWS``, and the batches of ``images`` that it wants."""
    size = variant.image_sizes[0]
    batches = eval_batches(images, norm, RESIZE if views == "ten-crop" else size, device)
    return (model if views == "center" else ManyViews(model, size, mirror=mirror)), batches
