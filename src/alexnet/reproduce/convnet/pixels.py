"""32×32 images in memory on the device: batches of exact crops and mirror images, as cuda-convnet's provider cut them.

Reference: cuda-convnet, ``convdata.py``, CroppedCIFARDataProvider: crops at every offset of 0 to 8 alike, each mirrored
with probability one half, and the centre of the mean image subtracted wherever the crop lies; of a test image the four
corners, the centre and their mirrors. One departure: it cut the training set into batches once, here they are shuffled
in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alexnet.data.loaders import epoch_order
from alexnet.data.resident import draw_crops, resampling_matrix
from alexnet.data.splits import Dataset, Images
from alexnet.data.statistics import are_small, statistics

__all__ = ["SIDE", "PixelData", "check"]

SIDE = 32
BATCH = 128
_CROPS = 1 << 32  # added to the seed of an epoch's crops, so that they are not those of its order


def check(dataset: Dataset) -> None:
    """ValueError where the images are not small squares of one size."""
    for images in (dataset.train, dataset.val):
        if not are_small(images):
            raise ValueError(
                f"--data {dataset.spec}: the four-layer networks take square images of one size, 96 pixels at most"
            )


class PixelData:
    """Images of one split. Those of another side than 32 are resized bilinearly.

    Args:
        like: the data set, whose training images give the mean image and the deviation.
        crop: side of the crops, 32 for whole images.
        scaled: also divide by the standard deviation of each channel.
    """

    def __init__(self, images: Images, like: Dataset, crop: int, device: torch.device, *, scaled: bool) -> None:
        array = images.array()
        assert array is not None  # `check` looked
        self.crop, self.mirror = crop, like.flip and crop < SIDE
        self.pixels = _resized(torch.from_numpy(array)).to(device)  # [N, 32, 32, 3]
        self.labels = torch.from_numpy(images.labels).to(device)
        found, edge = statistics(like.train), (SIDE - crop) // 2
        mean = _resized(torch.from_numpy(found.mean_image).float()[None])[0]  # [32, 32, 3]
        self.mean = mean[edge : edge + crop, edge : edge + crop].to(device)
        self.std = torch.from_numpy(found.std).float().to(device) if scaled else 1.0
        self.offsets = torch.arange(crop, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches of 128: images ``[B, 3, crop, crop]`` in float32 and labels, decided by seed and epoch."""
        count, device = len(self), self.pixels.device
        order = epoch_order(count, seed, epoch).to(device)
        random = torch.Generator().manual_seed(_CROPS + seed * 100_003 + epoch)
        boxes = draw_crops(count, SIDE, self.crop, random, flip=self.mirror).to(device)
        for first in range(0, count, BATCH):
            index, box = order[first : first + BATCH], boxes[slice(first, first + BATCH)]
            yield self.cut(index, box.top, box.left, box.flip), self.labels[index]

    def whole(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, uncut: float32 ``[B, 3, 32, 32]``, from which ``views`` cuts."""
        for first in range(0, len(self), 4 * BATCH):
            part = slice(first, first + 4 * BATCH)
            yield self.pixels[part].permute(0, 3, 1, 2).float(), self.labels[part]

    def views(self, images: Tensor, views: str) -> Iterator[Tensor]:
        """``[B, 3, crop, crop]`` for each of an image's views: ``center``, or ``ten-crop`` (five and their mirrors)."""
        far = SIDE - self.crop
        corners = ((0, 0), (0, far), (far // 2, far // 2), (far, 0), (far, far)) if far else ((0, 0),)
        chosen = corners if views == "ten-crop" else ((far // 2, far // 2),)
        for top, left in chosen:
            crop = images[..., top : top + self.crop, left : left + self.crop]
            for view in (crop, crop.flip(-1)) if views == "ten-crop" and self.mirror else (crop,):
                yield self._normalized(view.permute(0, 2, 3, 1))

    def cut(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """The crops of the images at ``index`` ``[B]``, at those offsets, mirrored where ``flip`` says so."""
        if self.crop == SIDE:
            return self._normalized(self.pixels[index])
        rows = top[:, None] + self.offsets  # [B, crop]
        columns = left[:, None] + torch.where(flip[:, None], self.offsets.flip(0), self.offsets)
        return self._normalized(self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _normalized(self, pixels: Tensor) -> Tensor:
        return ((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # channels last in memory


def _resized(images: Tensor) -> Tensor:
    """``[N, S, S, 3]`` to ``[N, 32, 32, 3]``, in the dtype given."""
    if images.shape[1] == SIDE:
        return images
    matrix = resampling_matrix(images.shape[1], SIDE).float()
    resized = torch.einsum("ia,nabc,jb->nijc", matrix, images.float(), matrix)
    return resized.round().to(images.dtype) if images.dtype == torch.uint8 else resized
