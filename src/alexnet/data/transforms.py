"""From a PIL image to the network's input, by torchvision: what an image goes through in training and in evaluation."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet.card import Normalization
from alexnet.data.resident import resampling_matrix

__all__ = [
    "Augmentation",
    "EvalTransform",
    "Normalize",
    "TrainTransform",
    "central_patch",
    "decode_mean_image",
    "encode_mean_image",
]

RESIZE = 256
STRIP = 32  # times as long as wide: no crop reaches beyond the middle of such an image
SCALE = (0.8, 1.0)  # of RandomResizedCrop's area


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What is drawn anew each time a training image is used."""

    flip: bool = True
    """Mirror half of the images."""
    crop: str = "random-resized"
    """``random-resized``: 0.8 to 1 of the area, resized; ``random``: a crop of the central 256×256 pixels, as it is."""
    color_noise: Tensor | None = None
    """``[3, 3]`` in pixel values of 0..255: the RGB noise of an image is this matrix times three draws of N(0, 1)."""


class Normalize:
    """uint8 ``[..., 3, S, S]`` to float32 ``(x / 255 − mean) / std``; S is ``size``, cropped from the centre of 256."""

    def __init__(self, norm: Normalization, size: int, device: torch.device | None = None) -> None:
        mean = torch.tensor(norm.mean)[:, None, None]
        if norm.mean_image:
            whole = decode_mean_image(norm, RESIZE).permute(2, 0, 1)  # [3, 256, 256]
            mean = v2.functional.center_crop(whole, [size, size])
        self.mean = mean.to(device)
        self.std = torch.tensor(norm.std, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255).sub_(self.mean).div_(self.std)


class TrainTransform:
    """PIL image to float32 ``[3, size, size]``: resize, crop at random, mirror, normalise, add colour noise."""

    def __init__(self, size: int, norm: Normalization, augmentation: Augmentation) -> None:
        mirror = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        if augmentation.crop == "random":
            crop: v2.Transform = v2.RandomCrop(size)
        else:
            crop = v2.RandomResizedCrop(size, scale=SCALE)
        if norm.mean_image:  # it belongs to the whole patch, so it is subtracted before the crop
            chain = [central_patch(), v2.ToImage(), Normalize(norm, RESIZE), crop, *mirror]
        else:
            first = central_patch() if augmentation.crop == "random" else _resized()
            chain = [first, crop, *mirror, v2.ToImage(), Normalize(norm, size)]
        self.chain = v2.Compose(chain)
        noise = augmentation.color_noise
        self.color_noise = None if noise is None else noise / (255 * torch.tensor(norm.std)[:, None])

    def __call__(self, image: Image.Image) -> Tensor:
        out: Tensor = self.chain(image)
        return out if self.color_noise is None else out + (self.color_noise @ torch.randn(3))[:, None, None]


class EvalTransform:
    """PIL image to float32 ``[3, size, size]``: resize, centre crop, normalise."""

    def __init__(self, size: int, norm: Normalization) -> None:
        self.pixels = v2.Compose([_resized(), v2.CenterCrop(size)])
        self.to_tensor = v2.Compose([v2.ToImage(), Normalize(norm, size)])

    def __call__(self, image: Image.Image) -> Tensor:
        return self.to_tensor(self.pixels(image))  # type: ignore[no-any-return]


def central_patch() -> v2.Compose:
    """The paper's first step (section 2): the shorter side to 256, then the central 256×256 pixels."""
    return v2.Compose([_resized(), v2.CenterCrop(RESIZE)])


def _resized() -> v2.Compose:
    return v2.Compose([_shortened, v2.Resize(RESIZE)])


def _shortened(image: Image.Image) -> Image.Image:
    """Of a strip, its middle: with the shorter side at 256, the other could be millions of pixels long."""
    longest = STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    return v2.functional.center_crop(image, [height, width])  # type: ignore[no-any-return]


def encode_mean_image(pixels: np.ndarray) -> str:
    """A mean image ``[side, side, 3]`` in 0..255, as ``Normalization.mean_image`` holds it."""
    return base64.b64encode((pixels / 255).astype("<f4").tobytes()).decode()


def decode_mean_image(norm: Normalization, side: int) -> Tensor:
    """float32 ``[side, side, 3]`` in 0..1: the mean image, resized bilinearly as the images themselves are."""
    flat = np.frombuffer(base64.b64decode(norm.mean_image), "<f4").astype(np.float64)
    own = math.isqrt(len(flat) // 3)
    resize = resampling_matrix(own, side)
    return torch.einsum("ia,abc,jb->ijc", resize, torch.from_numpy(flat.reshape(own, own, 3)), resize).float()
