"""From an image to the network's input: resizing to 256, and what is subtracted from pixels and divides them.

The numbers of a data set's training images are computed here, too: mean, mean image and colour components.
"""

from __future__ import annotations

import base64
import binascii
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alexnet.data.images import prefetch

if TYPE_CHECKING:
    from alexnet.data.datasets import Images

__all__ = [
    "IMAGENET", "RESIZE", "Normalization", "Statistics", "central_pixels", "encode_mean_image",
    "make_normalization", "mean_pixels", "normalized", "resampling_matrix", "statistics",
]  # fmt: skip

RESIZE = 256  # side of the patch of an image that crops are taken from (the paper, section 2)
SMALL_SIDE = 96  # of larger images, the resident path's matrices would be larger than the images
STRIP = 32  # times as long as wide: no crop reaches beyond the middle of such an image
LARGE_IMAGES = 2000  # the statistics of larger images come from so many
LARGE_MEAN_SIDE = 32  # of the mean image of large images; each of its pixels is the mean over 8×8


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 − mean) / std`` per channel, RGB. With ``std`` 1/255 the result is 0..255 minus the mean.

    Raises:
        ValueError: numbers that cannot be used, in one line that names the field.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mean_image: str = field(default="", repr=False)
    """If not empty, subtracted in place of ``mean``: a float32 array ``[side, side, 3]`` in 0..1, little-endian, in
    base64. It stands for the 256×256 pixels that images are cropped from, and is resized to them bilinearly."""
    resize: Literal["short-side", "warp"] = "short-side"
    """How an image becomes the 256×256 pixels that crops are taken from. ``short-side``: its shorter side at 256, then
    the middle; ``warp``: both sides at 256, bilinearly and without antialiasing, as Caffe's convert_imageset does."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not (isinstance(values, tuple) and len(values) == 3 and all(map(is_number, values))):
                raise ValueError(f"{name} must be three finite numbers, got {values!r}")
        if min(self.std) < 1e-30:
            raise ValueError(f"std must be three positive numbers, got {self.std!r}")
        if self.resize not in ("short-side", "warp"):
            raise ValueError(f"resize must be short-side or warp, got {self.resize!r}")
        if self.mean_image != "":
            _decoded(self.mean_image)


def mean_pixels(norm: Normalization, side: int | None = None) -> Tensor:
    """What is subtracted from pixels in 0..255: the mean image, resized to ``side``, or the mean as ``[3, 1, 1]``."""
    if not norm.mean_image:
        return torch.tensor(norm.mean)[:, None, None] * 255
    pixels = _decoded(norm.mean_image)
    resize = resampling_matrix(len(pixels), side or len(pixels))  # bilinearly, as the images themselves are resized
    resized = torch.einsum("ia,abc,jb->ijc", resize, torch.from_numpy(pixels), resize).float()
    return resized.permute(2, 0, 1) * 255


def normalized(pixels: Sequence[np.ndarray], norm: Normalization, device: torch.device) -> Tensor:
    """Central pixels uint8 ``[S, S, 3]`` of images to a normalised float32 batch ``[N, 3, S, S]``, channels last."""
    batch = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
    mean, std = mean_pixels(norm, RESIZE), torch.tensor(norm.std, device=device)[:, None, None] * 255
    if norm.mean_image:
        size = batch.shape[-1]
        first = round((RESIZE - size) / 2)  # as torchvision's CenterCrop
        mean = mean[:, first : first + size, first : first + size]
    return batch.float().sub_(mean.to(device)).div_(std)


def central_pixels(image: Image.Image, size: int = RESIZE, resize: str = "short-side") -> np.ndarray:
    """The central ``size`` × ``size`` pixels of an RGB image resized to 256: uint8 ``[size, size, 3]``.

    See ``Normalization.resize`` for the two ways. Pixels differ by at most 1 from Pillow's.
    """
    width, height = image.size
    if max(width, height) > STRIP * min(width, height):  # else the longer side could be millions of pixels long
        w, h = (min(side, STRIP * min(width, height)) for side in (width, height))
        left, top = round((width - w) / 2), round((height - h) / 2)
        image, width, height = image.crop((left, top, left + w, top + h)), w, h
    pixels = np.array(image)
    if resize == "warp":
        pixels = resize_pixels(pixels, RESIZE, RESIZE, antialias=False)
    else:
        short = min(width, height)
        pixels = resize_pixels(pixels, int(RESIZE * height / short), int(RESIZE * width / short))
    top, left = (round((side - size) / 2) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def resize_pixels(pixels: np.ndarray, height: int, width: int, *, antialias: bool = True) -> np.ndarray:
    """Resize uint8 ``[H, W, 3]`` bilinearly, as torchvision does.

    torch's own function, which has vector code for uint8 with the channels innermost in memory: importing torchvision
    takes seconds, because it imports torch's compiler.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # channels last
    resized = F.interpolate(batch, (height, width), mode="bilinear", antialias=antialias)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def resampling_matrix(source: int, target: int) -> Tensor:
    """The matrix ``[target, source]`` of bilinear resizing with antialiasing, float64; its rows sum to 1."""
    identity = torch.eye(source, dtype=torch.float64)[None, None]
    return F.interpolate(identity, (target, source), mode="bilinear", antialias=True)[0, 0]


def encode_mean_image(pixels: np.ndarray) -> str:
    """A mean image ``[side, side, 3]`` in 0..255, as ``Normalization.mean_image`` holds it."""
    return base64.b64encode((pixels / 255).astype("<f4").tobytes()).decode()


def _decoded(mean_image: str) -> np.ndarray:
    """float64 ``[side, side, 3]``. ValueError if the text is not a mean image."""
    try:
        data = base64.b64decode(mean_image, validate=True)
    except (TypeError, binascii.Error, ValueError):
        data = b""
    side = math.isqrt(len(data) // 12)
    if side == 0 or len(data) != 12 * side**2 or not np.isfinite(pixels := np.frombuffer(data, "<f4")).all():
        raise ValueError("mean_image must be finite float32 values [side, side, 3] in base64")
    return pixels.astype(np.float64).reshape(side, side, 3)


def is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e30  # NaN is not


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as torchvision's documentation gives it


# statistics of the training images


@dataclass(frozen=True, eq=False)
class Statistics:
    """In pixel values of 0..255, float64."""

    mean_image: np.ndarray
    """``[side, side, 3]``: the mean over images."""
    covariance: np.ndarray
    """``[3, 3]``: of the three channels over all pixels of all images."""

    @property
    def mean(self) -> np.ndarray:
        """``[3]``: of each channel."""
        return np.asarray(self.mean_image.mean((0, 1)))

    @property
    def std(self) -> np.ndarray:
        """``[3]``: the standard deviation of each channel, over all pixels."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Principal components of the colours: eigenvalues ``[3]``, largest first, and as columns their vectors."""
        values, vectors = np.linalg.eigh(self.covariance)
        return values[::-1].clip(min=0), vectors[:, ::-1]


_known: weakref.WeakKeyDictionary[Images, Statistics] = weakref.WeakKeyDictionary()


def statistics(images: Images) -> Statistics:
    """The statistics of a split. ``ImageError`` for a damaged image.

    Small squares are taken whole, all of them; of other images, the central 256×256 pixels of 2,000 at equal distances.
    They are computed once for each ``Images``.
    """
    if images not in _known:
        _known[images] = _compute_statistics(images)
    return _known[images]


def _compute_statistics(images: Images) -> Statistics:
    array = small_array(images)
    blocks: Iterator[np.ndarray]  # [N, side, side, 3]
    if array is not None:
        blocks = (array[first : first + 1000] for first in range(0, len(array), 1000))
    else:
        chosen = np.linspace(0, len(images) - 1, min(LARGE_IMAGES, len(images))).astype(int).tolist()
        blocks = (pixels[None] for pixels in prefetch(lambda i: central_pixels(images.image(i)), chosen, most=32))
    count, total, squares = 0, np.zeros(()), np.zeros((3, 3))
    for block in blocks:
        block = block.astype(np.float64)
        pixels = block.reshape(-1, 3)  # sums of whole numbers, so exact in any order
        count, total, squares = count + len(block), total + block.sum(0), squares + pixels.T @ pixels
    mean_image = total / count
    mean = mean_image.mean((0, 1))
    covariance = squares / (count * mean_image[..., 0].size) - np.outer(mean, mean)
    if array is None:
        side, part = LARGE_MEAN_SIDE, RESIZE // LARGE_MEAN_SIDE
        mean_image = mean_image.reshape(side, part, side, part, 3).mean((1, 3))
    return Statistics(mean_image, covariance)


def small_array(images: Images) -> np.ndarray | None:
    """The images as one array if they are squares of one size, 96 pixels at most, that fit into memory."""
    width, height = images.image(0).size  # answers for large images before all are decoded
    return images.array() if width == height <= SMALL_SIDE else None


def make_normalization(input_scale: str, images: Images) -> Normalization:
    """The normalisation of a recipe's ``input_scale``: ``imagenet``, or ``raw`` or ``mean-image`` of these images."""
    if input_scale == "imagenet":
        return IMAGENET
    found = statistics(images)
    red, green, blue = (float(value) for value in found.mean / 255)
    mean_image = encode_mean_image(found.mean_image) if input_scale == "mean-image" else ""
    return Normalization((red, green, blue), (1 / 255,) * 3, mean_image)
