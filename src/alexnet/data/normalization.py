"""What is subtracted from pixels, and what they are divided by: the last step from an image to the network's input."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.data.resident import resampling_matrix

__all__ = ["IMAGENET", "RESIZE", "Normalization", "Normalize", "encode_mean_image", "normalize_small", "normalized"]

RESIZE = 256  # side of the patch of an image that crops are taken from (the paper, section 2)
RESIZES = ("short-side", "warp")


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 − mean) / std`` per channel, RGB. With ``std`` 1/255 the values are 0..255 minus the mean.

    Raises:
        ValueError: figures that cannot be used, in one line that names which.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mean_image: str = field(default="", repr=False)
    """Where not empty, subtracted in place of ``mean``: a float32 array ``[side, side, 3]`` in 0..1, little-endian, in
    base64. It stands for the 256×256 pixels that images are cropped from, and is resized to them bilinearly."""
    resize: Literal["short-side", "warp"] = "short-side"
    """How an image becomes the 256×256 pixels that crops are taken from. ``short-side``: its shorter side at 256, then
    the middle; ``warp``: both sides at 256, bilinearly and without antialiasing, as Caffe's convert_imageset does."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not (isinstance(values, tuple) and len(values) == 3 and all(map(_is_number, values))):
                raise ValueError(f"{name}: three finite numbers are wanted")
        if min(self.std) < 1e-30:
            raise ValueError("std: three positive numbers are wanted")
        if self.resize not in RESIZES:
            raise ValueError(f"resize {self.resize!r}: allowed is one of {', '.join(RESIZES)}")
        if self.mean_image != "":
            _pixels_of(self.mean_image)


class Normalize:
    """uint8 ``[..., 3, S, S]`` to float32 ``(x / 255 − mean) / std``; S is ``size``, cropped from the centre of 256."""

    def __init__(self, norm: Normalization, size: int, device: torch.device | None = None) -> None:
        mean = torch.tensor(norm.mean)[:, None, None]
        if norm.mean_image:
            whole = _decode_mean_image(norm, RESIZE).permute(2, 0, 1)  # [3, 256, 256]
            first = round((RESIZE - size) / 2)  # as torchvision's CenterCrop
            mean = whole[:, first : first + size, first : first + size]
        self.mean = mean.to(device)
        self.std = torch.tensor(norm.std, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255).sub_(self.mean).div_(self.std)


def normalized(pixels: Sequence[np.ndarray], norm: Normalization, device: torch.device) -> Tensor:
    """uint8 images ``[H, W, 3]`` of one size to a normalised float32 batch ``[N, 3, H, W]``, channels last."""
    batch = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
    return Normalize(norm, batch.shape[-1], device)(batch)


def normalize_small(norm: Normalization, side: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """``Normalize`` for images ``[N, side, side, 3]`` still to be resized; the same thing, for resizing is linear."""
    mean = _decode_mean_image(norm, side) if norm.mean_image else torch.tensor(norm.mean)
    mean, std = mean.to(device) * 255, torch.tensor(norm.std, device=device) * 255
    return lambda images: (images.float() - mean) / std


def encode_mean_image(pixels: np.ndarray) -> str:
    """A mean image ``[side, side, 3]`` in 0..255, as ``Normalization.mean_image`` holds it."""
    return base64.b64encode((pixels / 255).astype("<f4").tobytes()).decode()


def _decode_mean_image(norm: Normalization, side: int) -> Tensor:
    """float32 ``[side, side, 3]`` in 0..1: the mean image, resized bilinearly as the images themselves are."""
    pixels = _pixels_of(norm.mean_image)
    resize = resampling_matrix(len(pixels), side)
    return torch.einsum("ia,abc,jb->ijc", resize, torch.from_numpy(pixels), resize).float()


def _pixels_of(mean_image: str) -> np.ndarray:
    """float64 ``[side, side, 3]``. ValueError where the text is anything but a mean image."""
    wrong = ValueError("mean_image: float32 values [side, side, 3] in base64 are wanted")
    try:
        data = base64.b64decode(mean_image, validate=True)
    except (TypeError, binascii.Error, ValueError):
        raise wrong from None
    side = math.isqrt(len(data) // 12)
    if side == 0 or len(data) != 12 * side**2:
        raise wrong
    pixels = np.frombuffer(data, "<f4").astype(np.float64).reshape(side, side, 3)
    if not np.isfinite(pixels).all():
        raise wrong
    return pixels


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e30  # NaN is not


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as torchvision's documentation gives it
