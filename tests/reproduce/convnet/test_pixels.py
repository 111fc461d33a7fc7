"""Crops and mirror images are cut exactly where they are drawn; the mean image's centre goes; ten views."""

import numpy as np
import pytest
import torch

from alexnet.data import datasets
from alexnet.data.splits import Dataset, Images, Pixels
from alexnet.reproduce.convnet.pixels import PixelData, check

CPU = torch.device("cpu")


def dataset(count: int = 20, side: int = 32, *, flip: bool = True) -> Dataset:
    random = np.random.RandomState(0)
    splits = [
        Images(np.arange(n) % 2, Pixels(random.randint(0, 256, (n, side, side, 3)).astype(np.uint8), "noise"))
        for n in (count, 4)
    ]
    return Dataset("noise", "noise", ("a", "b"), *splits, val_split="test", flip=flip)


def test_crops_are_cut_at_their_offsets() -> None:
    data = dataset()
    pixels = data.train.array()
    assert pixels is not None
    mean = pixels.mean(0)[4:28, 4:28]  # wherever the crop lies, the centre of the mean image is subtracted
    cutter = PixelData(data.train, data, 24, CPU, scaled=False)
    top, left, flip = torch.tensor([0, 8, 3]), torch.tensor([8, 0, 5]), torch.tensor([False, True, True])
    got = cutter.cut(torch.tensor([5, 6, 7]), top, left, flip)
    assert got.shape == (3, 3, 24, 24)
    for n, (image, y, x, mirrored) in enumerate(((5, 0, 8, False), (6, 8, 0, True), (7, 3, 5, True))):
        crop = pixels[image, y : y + 24, x : x + 24].astype(np.float32)
        crop = crop[:, ::-1] if mirrored else crop
        assert np.allclose(got[n].permute(1, 2, 0).numpy(), crop - mean, atol=1e-3)


def test_every_offset_and_both_sides_are_drawn() -> None:
    data = dataset(5000)
    cutter = PixelData(data.train, data, 24, CPU, scaled=False)
    seen: list[tuple[int, int, bool]] = []
    cutter.cut = lambda index, top, left, flip: (  # type: ignore[method-assign]
        seen.extend(zip(top.tolist(), left.tolist(), flip.tolist(), strict=True)), torch.zeros(0))[1]  # fmt: skip
    for _ in cutter.epoch(seed=0, epoch=0):
        pass
    assert len(seen) == 5000
    assert len({(top, left) for top, left, _ in seen}) == 81
    assert 2300 < sum(flip for _, _, flip in seen) < 2700


def test_seed_and_epoch_decide_the_batches() -> None:
    data = dataset(300)
    cutter = PixelData(data.train, data, 24, CPU, scaled=False)

    def batches(seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*cutter.epoch(seed, epoch), strict=True)
        assert [len(part) for part in labels] == [128, 128, 44]
        return torch.cat(images), torch.cat(labels)

    assert torch.equal(batches(1, 2)[0], batches(1, 2)[0])
    assert not torch.equal(batches(1, 2)[0], batches(1, 3)[0])
    assert not torch.equal(batches(1, 2)[0], batches(2, 2)[0])
    assert batches(0, 0)[1].sum() == 150  # every image once


def test_whole_images_are_neither_cut_nor_mirrored() -> None:
    data = dataset(10)
    cutter = PixelData(data.train, data, 32, CPU, scaled=True)
    pixels = data.train.array()
    assert pixels is not None
    expected = (pixels - pixels.mean(0)) / pixels.reshape(-1, 3).std(0)
    got = torch.cat([images for images, _ in cutter.epoch(0, 0)])
    sums = sorted(float(value) for value in got.abs().sum((1, 2, 3)))
    assert sums == pytest.approx(sorted(np.abs(expected).sum((1, 2, 3))), rel=1e-4)


def test_ten_views_are_the_corners_the_centre_and_their_mirrors() -> None:
    data = dataset(10)
    cutter = PixelData(data.train, data, 24, CPU, scaled=False)
    ((images, labels),) = cutter.whole()
    assert images.shape == (10, 3, 32, 32)
    assert labels.tolist() == data.train.labels.tolist()
    views = list(cutter.views(images, "ten-crop"))
    corners = [(0, 0), (0, 8), (4, 4), (8, 0), (8, 8)]
    expected = [(y, x, flip) for y, x in corners for flip in (False, True)]
    for view, (y, x, flip) in zip(views, expected, strict=True):
        many = torch.full((10,), y), torch.full((10,), x), torch.full((10,), flip)
        assert torch.equal(view, cutter.cut(torch.arange(10), *many))
    (centre,) = cutter.views(images, "center")
    assert torch.equal(centre, views[4])


def test_digits_are_not_mirrored() -> None:
    data = dataset(10, flip=False)
    cutter = PixelData(data.train, data, 24, CPU, scaled=False)
    ((images, _),) = cutter.whole()
    assert len(list(cutter.views(images, "ten-crop"))) == 5
    assert not cutter.mirror


def test_other_sides_are_resized() -> None:
    data = datasets.load("digits")
    cutter = PixelData(data.train, data, 32, CPU, scaled=False)
    assert cutter.pixels.shape == (1438, 32, 32, 3)
    assert cutter.pixels.dtype == torch.uint8
    assert cutter.pixels.float().mean() == pytest.approx(data.train.array().mean(), rel=0.02)


def test_large_images_are_refused() -> None:
    check(dataset())
    with pytest.raises(ValueError, match="--data noise: the four-layer networks take square images"):
        check(dataset(4, side=128))
