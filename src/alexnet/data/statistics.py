"""What is computed once from a data set's training images: mean, deviation, mean image and colour components.

Images that are small squares of one size are taken whole, all of them; of others, the central 256×256 pixels of 2,000
images at equal distances. The figures are cached on disk under a checksum of the very images they were taken from, so
they can be neither stale nor of another data set.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alexnet.data.normalization import IMAGENET, RESIZE, Normalization, encode_mean_image
from alexnet.data.splits import Images
from alexnet.data.transforms import as_array, central_patch
from alexnet.files import cache_folder, write_atomically

__all__ = ["SMALL_SIDE", "Statistics", "are_small", "color_noise", "normalization", "statistics"]

SMALL_SIDE = 96  # of larger images, the resident path's table of matrices would be larger than the images
MOST_LARGE = 2000
LARGE_MEAN_SIDE = 32  # of the mean image of large images, each of its pixels the mean over 8×8
_FORMAT = b"alexnet-2012 statistics 2"  # part of the checksum: change it with the arithmetic
_BLOCK = 1000


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


def statistics(images: Images) -> Statistics:
    """The statistics of a split, from the cache where they are in it. ``ImageError`` for a damaged image."""
    small = are_small(images)
    rows = np.linspace(0, len(images) - 1, min(MOST_LARGE, len(images))).astype(int).tolist()  # where they are large
    path = cache_folder() / f"statistics-{_checksum(images, rows, small=small)}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as file:
        return Statistics(file["mean_image"], file["covariance"])
    found = _computed(_small_blocks(images) if small else _large_blocks(images, rows))
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: _write(found, file))
    return found


def _write(found: Statistics, path: Path) -> None:
    with path.open("wb") as file:  # np.savez would add an ending to a name
        np.savez(file, mean_image=found.mean_image, covariance=found.covariance)


def normalization(input_scale: str, images: Images) -> Normalization:
    """What a recipe's ``input_scale`` means for a data set, whose training images are ``images``."""
    if input_scale == "imagenet":
        return IMAGENET
    found = statistics(images)
    red, green, blue = (float(value) for value in found.mean / 255)
    mean_image = encode_mean_image(found.mean_image) if input_scale == "mean-image" else ""
    return Normalization((red, green, blue), (1 / 255,) * 3, mean_image)


def color_noise(kind: str, images: Images) -> Tensor | None:
    """The matrix of ``Augmentation.color_noise`` for a recipe's ``color_noise`` (the paper, section 4.1).

    Each principal component of the training images' colours, times N(0, 0.1), times its standard deviation (``std``,
    as in the released code) or its eigenvalue (``eigenvalue``, as in the text; of pixel values in 0..1, since with
    those of 0..255 the noise would drown the image).
    """
    if kind == "none":
        return None
    values, vectors = statistics(images).components
    scale = np.sqrt(values) if kind == "std" else values / 255  # λ of x/255 is λ/255², then times 255
    return torch.from_numpy(0.1 * vectors * scale).float()


def are_small(images: Images) -> bool:
    """Whether the images are squares of one size, 96 pixels at most, and fit into memory together."""
    width, height = images.image(0).size  # tells large images before all are decoded
    return width == height <= SMALL_SIDE and images.array() is not None


def _small_blocks(images: Images) -> Iterator[np.ndarray]:
    array = images.array()
    assert array is not None
    for first in range(0, len(array), _BLOCK):
        yield array[first : first + _BLOCK].astype(np.float64)


def _large_blocks(images: Images, rows: Sequence[int]) -> Iterator[np.ndarray]:
    cut = central_patch()
    told = {"desc": "statistics of the training images", "unit": "image", "leave": False, "delay": 2}
    for row in tqdm(rows, **told, disable=None):  # at a terminal, once it takes longer
        with images.decoding(row) as image:
            patch = as_array(cut(image)).astype(np.float64)
        yield patch[None]


def _computed(blocks: Iterator[np.ndarray]) -> Statistics:
    count, total, squares = 0, np.zeros(()), np.zeros((3, 3))
    for block in blocks:  # [N, side, side, 3]; sums of whole numbers, so exact in any order
        pixels = block.reshape(-1, 3)
        count, total, squares = count + len(block), total + block.sum(0), squares + pixels.T @ pixels
    mean_image = total / count
    mean = mean_image.mean((0, 1))
    covariance = squares / (count * mean_image[..., 0].size) - np.outer(mean, mean)
    side = mean_image.shape[0]
    if side == RESIZE:
        small, part = LARGE_MEAN_SIDE, RESIZE // LARGE_MEAN_SIDE
        mean_image = mean_image.reshape(small, part, small, part, 3).mean((1, 3))
    return Statistics(mean_image, covariance)


def _checksum(images: Images, rows: Sequence[int], *, small: bool) -> str:
    digest = hashlib.sha256(_FORMAT)
    if small:
        array = images.array()
        assert array is not None
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    else:
        for row in rows:
            digest.update(hashlib.sha256(images.encoded(row)).digest())
    return digest.hexdigest()[:32]
