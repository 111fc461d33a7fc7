"""What is subtracted from pixels, and what they are divided by: the last step from an image to the network's input."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from alexnet.data.resident import resampling_matrix

__all__ = ["IMAGENET", "RESIZE", "Normalization", "Normalize", "encode_mean_image", "normalize_small", "normalized"]

RESIZE = 256  # side of the patch of an image that crops are taken from (the paper, section 2)


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 − mean) / std`` per channel, RGB. With ``std`` 1/255 the values are 0..255 minus the mean."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mean_image: str = field(default="", repr=False)
    """Where not empty, subtracted in place of ``mean``: a float32 array ``[side, side, 3]`` in 0..1, little-endian, in
    base64. It stands for the 256×256 pixels that images are cropped from, and is resized to them bilinearly."""


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as torchvision's documentation gives it


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
    flat = np.frombuffer(base64.b64decode(norm.mean_image), "<f4").astype(np.float64)
    own = math.isqrt(len(flat) // 3)
    resize = resampling_matrix(own, side)
    return torch.einsum("ia,abc,jb->ijc", resize, torch.from_numpy(flat.reshape(own, own, 3)), resize).float()
