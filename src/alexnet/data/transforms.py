"""From a PIL image to the network's input, by torchvision: what an image goes through in training and in evaluation.

Images are resized as uint8 tensors with their channels innermost in memory, for which torch has vector code: decoding
included, one and a half times as many a core as by Pillow, and of its pixels at most 1 off (benchmarks/decode.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet.data.normalization import RESIZE, Normalization, Normalize

__all__ = ["Augmentation", "ColorNoise", "EvalTransform", "TrainTransform", "as_array", "central_patch"]

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
    noise_divisor: float = 1.0
    """What an image with noise is divided by. The released code's 1.1 (convdata.py, line 205) keeps the scale of the
    images that it is tested on."""


class ColorNoise:
    """Colour noise on normalised images: one shift of RGB an image, and the division that goes with it."""

    def __init__(self, augmentation: Augmentation, norm: Normalization, device: torch.device) -> None:
        self.divisor = augmentation.noise_divisor
        noise = torch.zeros(3, 3) if augmentation.color_noise is None else augmentation.color_noise
        self.matrix = (noise / (255 * torch.tensor(norm.std)[:, None])).T.to(device)  # for normalised pixels

    def __call__(self, images: Tensor, draws: Tensor, channels: int) -> Tensor:
        """``draws`` of N(0, 1): ``[N, 3]``, one row for each of the images, whose dimension ``channels`` is RGB."""
        shape = [len(images), 1, 1, 1]
        shape[channels] = 3
        return (images + (draws @ self.matrix).view(shape)) / self.divisor


class TrainTransform:
    """PIL image to uint8 ``[3, size, size]``: resize, crop at random, mirror.

    With a mean image, float32 and normalised: the mean belongs to the whole patch, so it goes before the crop.
    """

    def __init__(self, size: int, norm: Normalization, augmentation: Augmentation) -> None:
        mirror = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        if augmentation.crop == "random":
            crop: v2.Transform = v2.RandomCrop(size)
        else:
            crop = v2.RandomResizedCrop(size, scale=SCALE)
        if norm.mean_image:
            chain = [central_patch(norm.resize), Normalize(norm, RESIZE), crop, *mirror]
        else:
            first = central_patch(norm.resize) if augmentation.crop == "random" else _resized(norm.resize)
            chain = [first, crop, *mirror]
        self.chain = v2.Compose(chain)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.chain(image)  # type: ignore[no-any-return]


class EvalTransform:
    """PIL image to float32 ``[3, size, size]``: resize, centre crop, normalise."""

    def __init__(self, size: int, norm: Normalization) -> None:
        self.crop = v2.Compose([_resized(norm.resize), v2.CenterCrop(size)])
        self.normalize = Normalize(norm, size)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalize(self.crop(image))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The same before it is normalised: uint8 ``[size, size, 3]``."""
        return as_array(self.crop(image))


def central_patch(resize: str = "short-side") -> v2.Compose:
    """PIL image to uint8 ``[3, 256, 256]``, the pixels that crops are taken from: of the image with its shorter side at
    256 (the paper, section 2), or, where ``resize`` is ``warp``, the whole image, as Caffe has it.
    """
    return v2.Compose([_resized(resize), v2.CenterCrop(RESIZE)])


def as_array(image: Tensor) -> np.ndarray:
    """uint8 ``[3, H, W]`` as an array ``[H, W, 3]`` that lies in one piece."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _resized(resize: str) -> v2.Compose:
    if resize == "warp":  # by plain bilinear interpolation, as OpenCV's `resize` does it unless told otherwise
        return v2.Compose([v2.PILToTensor(), v2.Resize([RESIZE, RESIZE], antialias=False)])
    return v2.Compose([_shortened, v2.PILToTensor(), v2.Resize(RESIZE)])


def _shortened(image: Image.Image) -> Image.Image:
    """Of a strip, its middle: with the shorter side at 256, the other could be millions of pixels long."""
    longest = STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    return v2.functional.center_crop(image, [height, width])  # type: ignore[no-any-return]
