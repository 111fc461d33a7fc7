"""From a PIL image to the network's input, by torchvision: what an image goes through in training and in evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet.data.normalization import RESIZE, Normalization, Normalize

__all__ = ["Augmentation", "ColorNoise", "EvalTransform", "TrainTransform", "central_patch"]

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
            chain = [central_patch(norm.resize), v2.ToImage(), Normalize(norm, RESIZE), crop, *mirror]
        else:
            first = central_patch(norm.resize) if augmentation.crop == "random" else _resized(norm.resize)
            chain = [first, crop, *mirror, v2.ToImage()]
        self.chain = v2.Compose(chain)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.chain(image)  # type: ignore[no-any-return]


class EvalTransform:
    """PIL image to float32 ``[3, size, size]``: resize, centre crop, normalise."""

    def __init__(self, size: int, norm: Normalization) -> None:
        self.pixels = v2.Compose([_resized(norm.resize), v2.CenterCrop(size)])
        self.to_tensor = v2.Compose([v2.ToImage(), Normalize(norm, size)])

    def __call__(self, image: Image.Image) -> Tensor:
        return self.to_tensor(self.pixels(image))  # type: ignore[no-any-return]


def central_patch(resize: str = "short-side") -> v2.Compose:
    """The 256×256 pixels that crops are taken from: of the image with its shorter side at 256 (the paper, section 2),
    or, where ``resize`` is ``warp``, the whole image, as Caffe has it.
    """
    return v2.Compose([_resized(resize), v2.CenterCrop(RESIZE)])


def _resized(resize: str) -> v2.Compose:
    return v2.Compose([_warped] if resize == "warp" else [_shortened, v2.Resize(RESIZE)])


def _warped(image: Image.Image) -> Image.Image:
    """Both sides at 256 by plain bilinear interpolation: what OpenCV's ``resize`` does unless told otherwise."""
    pixels = v2.functional.resize(v2.functional.pil_to_tensor(image), [RESIZE, RESIZE], antialias=False)
    return v2.functional.to_pil_image(pixels)  # type: ignore[no-any-return]


def _shortened(image: Image.Image) -> Image.Image:
    """Of a strip, its middle: with the shorter side at 256, the other could be millions of pixels long."""
    longest = STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    return v2.functional.center_crop(image, [height, width])  # type: ignore[no-any-return]
