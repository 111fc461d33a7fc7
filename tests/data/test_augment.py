"""Augmentations and the cutting of boxes: against torchvision, and by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from alexnet import recipes
from alexnet.data.augment import AUGMENTATIONS, BoxCrops, Boxes, Draws, cut_box
from alexnet.data.datasets import Images, Pixels
from alexnet.data.normalization import IMAGENET, Normalization, statistics

CPU = torch.device("cpu")
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)


def draws(count=16, stage="box", epoch=0, norm=IMAGENET, **changes):
    images = Images(np.arange(count) % 2, Pixels(COLOURS[np.arange(count) % 16], "noise"))
    return Draws(recipes.classic(**changes), epoch, torch.arange(count).flip(0), stage, images, norm)


def boxes(*names, count=16, size=224, **options):
    found, own = Boxes.central(count, size), draws(count, **options)
    for name in names:
        found = AUGMENTATIONS[name].apply(found, own)
    return found


def smooth_images(count, side=32):
    """uint8 [count, side, side, 3] with edges and gradients, like photographs, and their full range of values."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 300 - 20
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return images.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("names", [("random_resized_crop", "flip"), ("random_crop", "flip"), ()])
@pytest.mark.parametrize("side", [32, 256])
def test_boxes_are_cut_as_torchvision_does(names, side):
    images, found = smooth_images(16, side), boxes(*names)
    if side == 256:
        ours = torch.from_numpy(np.stack([cut_box(x.numpy(), found, i, 224) for i, x in enumerate(images)]))
        ours = ours.permute(0, 3, 1, 2).float()
    else:
        ours = BoxCrops(side, 224, CPU)(images.permute(0, 3, 1, 2).float(), found)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    for i, pixels in enumerate(images):
        box = [int(t[i]) for t in (found.top, found.left, found.height, found.width)]
        image = TF.resized_crop(TF.resize(Image.fromarray(pixels.numpy()), [256]), *box, [224, 224])
        image = TF.hflip(image) if found.mirrored[i] else image
        assert (ours[i] - TF.pil_to_tensor(image).float()).abs().max() <= 2.0
    assert found.mirrored.any() == ("flip" in names)


def test_even_images_of_any_side_stay_even():
    for side in (1, 8, 28, 64):
        out = BoxCrops(side, 227, CPU)(
            torch.full((2, 3, side, side), 7.0), boxes("random_resized_crop", count=2, size=227)
        )
        assert torch.allclose(out, torch.full((2, 3, 227, 227), 7.0))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("random_resized_crop", v2.RandomResizedCrop(224, scale=(0.8, 1.0))), ("random_crop", v2.RandomCrop(224))],
)
def test_boxes_have_torchvisions_distribution(name, theirs):
    """Two-sample Kolmogorov-Smirnov on area, ratio and position against torchvision itself."""
    from scipy.stats import ks_2samp

    count, found = 4000, boxes(name, "flip", count=4000)
    torch.manual_seed(0)
    drawn = [theirs.make_params([torch.empty(3, 256, 256)]) for _ in range(count)]
    keys = ("top", "left", "height", "width")
    other = {key: np.array([d.get(key, 224) for d in drawn], dtype=float) for key in keys}
    ours = {key: getattr(found, key).double().numpy() for key in keys}
    for what in (
        lambda b: b["height"] * b["width"], lambda b: b["width"] / b["height"], lambda b: b["top"], lambda b: b["left"],
    ):  # fmt: skip
        assert ks_2samp(what(ours), what(other)).pvalue > 0.01
    assert (ours["top"] + ours["height"]).max() <= 256
    assert abs(found.mirrored.double().mean() - 0.5) < 0.03


def test_alternating_flip_mirrors_each_image_in_every_other_epoch():
    even, odd, later = (boxes("alternating_flip", epoch=epoch).mirrored for epoch in (0, 1, 2))
    assert torch.equal(even, ~odd)
    assert torch.equal(even, later)
    assert even.any()
    assert odd.any()
    first, other = draws(), draws()  # another order of the images, as each epoch has
    other.order = other.order.roll(5)
    own, rolled = (
        AUGMENTATIONS["alternating_flip"].apply(Boxes.central(16, 224), each).mirrored for each in (first, other)
    )
    assert torch.equal(own.roll(5), rolled)
    assert not torch.equal(own, rolled)


def test_crops_reach_all_edges():
    found = boxes("random_crop", count=4000)
    assert all((side.min(), side.max()) == (0, 32) for side in (found.top, found.left))
    found = boxes("random_resized_crop", count=4000)
    for start, length in ((found.top, found.height), (found.left, found.width)):
        assert start[length < 256].min() == 0
        assert (start + length)[length < 256].max() == 256


@pytest.mark.parametrize(("name", "divisor"), [("pca_color", 1.0), ("pca_color_std", 1.1)])
def test_pca_color_shifts_each_image_along_the_components(name, divisor):
    norm = Normalization((0.0,) * 3, (0.1, 0.2, 0.4))
    own = draws(4000, "color", norm=norm, epochs=4, pca_color_until=0.5)
    images = torch.zeros(4000, 3, 2, 2)
    shift = AUGMENTATIONS[name].apply(images, own) * divisor
    assert shift.std((2, 3)).max() == 0
    pixels = shift[:, :, 0, 0] * torch.tensor(norm.std)  # of values in 0..1
    covariance = statistics(own.images).covariance / 255**2
    values, vectors = np.linalg.eigh(covariance)
    scale = values if divisor == 1 else np.sqrt(values)
    expected = vectors @ np.diag((0.1 * scale) ** 2) @ vectors.T
    assert np.allclose(np.cov(pixels.T.numpy()), expected, atol=0.1 * expected.max())
    last = draws(16, "color", epoch=2, epochs=4, pca_color_until=0.5)
    assert AUGMENTATIONS[name].apply(images[:16] + 1, last).unique().tolist() == [1]  # no noise, no division


def test_cutout_sets_a_square_to_the_mean():
    out = AUGMENTATIONS["cutout"].apply(torch.ones(200, 3, 96, 96), draws(200, "crop"))
    assert ((out == 0).all(1) | (out == 1).all(1)).all()
    holes = (out[:, 0] == 0).sum((1, 2))
    assert holes.max() == 64 * 64
    assert holes.min() >= 32 * 32  # its centre is inside


def test_draws_depend_on_seed_epoch_and_place_alone():
    def of(places=slice(None), **options):
        own = draws(12, "color", **options).at(places)
        return [own.randn(3), own.rand(), own.randint(5)]

    whole = of()
    for part, every in zip(of(slice(3, 12, 2)), whole, strict=True):
        assert torch.equal(part, every[3:12:2])
    for other in (of(epoch=1), of(seed=1)):
        assert not torch.equal(whole[0], other[0])
