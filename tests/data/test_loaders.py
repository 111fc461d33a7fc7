"""Both paths of training images, and evaluation: the order, each process's share, the same images from anywhere."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import recipes
from alexnet.data import datasets, loaders
from alexnet.data.augment import AUGMENTATIONS, augmentation
from alexnet.data.datasets import Dataset, Images, Pixels
from alexnet.data.images import ImageError
from alexnet.data.loaders import Shard, eval_batches
from alexnet.data.normalization import make_normalization, normalized
from pictures import image_folder

CPU = torch.device("cpu")
ALL = ("random_resized_crop", "flip", "pca_color_std", "cutout")
EVERYTHING = {"input_scale": "mean-image", "augment": ALL, "batch_size": 32}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits").with_fewer(200)


@pytest.fixture(scope="module")
def slopes():
    """Coloured images with a mean image that is far from even."""
    slope = np.linspace(0, 120, 32)[None, :, None, None] * [1.0, 0.5, 0.2]
    noise = np.random.default_rng(3).integers(0, 130, (64, 32, 1, 3))
    pixels = np.repeat((slope + noise).astype(np.uint8), 32, axis=2)
    images = Images(np.arange(64) % 2, Pixels(pixels, "slopes"))
    return Dataset("slopes", "slopes", ("a", "b"), images, images, "val")


def open_(dataset, loader="auto", shard=Shard(), **changes):  # noqa: B008
    recipe = recipes.quickstart(**changes)
    norm = make_normalization(recipe.input_scale, dataset.train)
    return loaders.open_loader(dataset, recipe, recipes.Runtime(loader=loader), norm, 224, CPU, shard)


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_an_epoch_is_every_image_once(digits, loader):
    opened = open_(digits, loader)
    assert opened.kind == loader
    batches = list(opened.train(0))
    assert [len(images) for images, _ in batches] == [32] * 6 + [len(digits.train) - 192]
    assert len(batches) == opened.steps_per_epoch
    labels = torch.cat([labels for _, labels in batches])
    assert labels.bincount().tolist() == np.bincount(digits.train.labels).tolist()
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)


def test_both_paths_give_the_same_images(slopes):
    for augment in (ALL, ("random_crop", "alternating_flip"), ()):
        resident, workers = (
            open_(slopes, kind, **EVERYTHING | {"augment": augment}) for kind in ("resident", "workers")
        )
        for (ours, labels), (theirs, other_labels) in zip(resident.train(1), workers.train(1), strict=True):
            assert torch.equal(labels, other_labels)
            assert (ours - theirs).abs().max() <= 2.0  # in 0..255; workers round to 8 bits


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_from_the_middle_and_in_several_processes_the_images_are_the_same(slopes, loader):
    whole = list(open_(slopes, loader, **EVERYTHING).train(1))
    torch.rand(7)  # the global state must not matter
    (rest,) = open_(slopes, loader, **EVERYTHING).train(1, start=1)
    assert torch.equal(rest[0], whole[1][0])
    assert torch.equal(rest[1], whole[1][1])
    for rank in (0, 1):
        for (part, labels), (images, every) in zip(
            open_(slopes, loader, Shard(rank, 2), **EVERYTHING).train(1), whole, strict=True
        ):
            # a product of fewer images may add in another order
            torch.testing.assert_close(part, images[rank::2], atol=1e-3, rtol=0)
            assert torch.equal(labels, every[rank::2])
    for other in (
        open_(slopes, loader, **EVERYTHING | {"seed": 1}).train(1),
        open_(slopes, loader, **EVERYTHING).train(2),
    ):
        assert not torch.equal(next(other)[0], whole[0][0])


def test_the_global_random_state_is_left_alone(digits):
    """It drives dropout, and a resumed run starts its threads at another step."""
    before = torch.get_rng_state()
    for loader in ("resident", "workers"):
        next(open_(digits, loader).train(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_the_mean_image_is_subtracted_where_each_crop_was(slopes, loader):
    """The crops of the mean image itself come out as zeros, wherever they are taken."""
    norm = make_normalization("mean-image", slopes.train)
    mean = np.rint(slopes.train.array().mean(0)).astype(np.uint8)  # type: ignore[union-attr]
    same = Images(np.arange(8) % 2, Pixels(np.repeat(mean[None], 8, 0), "mean"))
    dataset = Dataset("mean", "mean", ("a", "b"), same, same, "val")
    for augment in (("random_resized_crop", "flip"), ("random_crop",)):
        recipe = recipes.classic(batch_size=8, augment=augment)
        opened = loaders.open_loader(dataset, recipe, recipes.Runtime(loader=loader), norm, 224, CPU)
        (images, _) = next(opened.train(0))
        assert images.abs().max() <= 1.6  # of 0..255
    (images, _) = next(eval_batches(same, norm, 224, CPU))
    assert images.abs().max() <= 1.6


def test_digits_are_never_mirrored(digits):
    for mirror in ("flip", "alternating_flip"):
        (ours, _), (plain, _) = (
            next(open_(digits, augment=("random_crop", *names)).train(0)) for names in ((mirror,), ())
        )
        assert torch.equal(ours, plain)


def test_a_new_augmentation_is_one_function(digits, monkeypatch):
    monkeypatch.delitem(AUGMENTATIONS, "darker", raising=False)  # registers its removal after the test

    @augmentation("crop")
    def darker(images, draws):
        return images - 5

    (ours, _), (plain, _) = (next(open_(digits, augment=names).train(0)) for names in (("darker",), ()))
    assert torch.allclose(ours, plain - 5)


def test_the_order_of_a_million_is_a_function_of_seed_and_epoch():
    order = loaders.epoch_order(1_281_167, seed=1, epoch=2)
    assert order[:4].tolist() == [989122, 1001024, 548369, 452996]
    assert torch.equal(order.bincount(), torch.ones(1_281_167, dtype=torch.int64))


def test_refusals(digits):
    for field, options in {
        "batch_size": {"batch_size": 5000}, "augment": {"augment": ("random_crop", "flipp")},
        "augment must be a list with one": {"augment": ("random_crop", "random_resized_crop")},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=field):
            open_(digits, **options)
    with pytest.raises(ValueError, match="31"):
        open_(digits, shard=Shard(0, 31), batch_size=30)
    large = Images(np.arange(4) % 2, Pixels(np.zeros((4, 200, 200, 3), dtype=np.uint8), "large"))
    with pytest.raises(ValueError, match="resident"):
        open_(Dataset("photos", "photos", ("a", "b"), large, large, "val"), "resident", batch_size=2)


def test_a_damaged_image_is_named(tmp_path):
    spec = image_folder(tmp_path)
    path = tmp_path / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageError, match=str(path)):
        list(open_(datasets.load(spec), "workers", batch_size=2, input_scale="imagenet").train(0))


@pytest.mark.parametrize(("tta", "size"), [("center", 224), ("flip", 224), ("ten-crop", 256)])
def test_evaluation_is_in_order_and_at_the_size_of_its_views(digits, tta, size):
    opened, images = open_(digits), digits.val.subset(np.arange(150))
    batches = list(opened.eval(images, tta))
    assert torch.cat([labels for _, labels in batches]).tolist() == images.labels.tolist()
    assert batches[0][0].shape == (128, 3, size, size)
    assert not list(opened.eval(images.subset([]), tta))


def test_both_ways_to_evaluate_give_the_same_images(digits, monkeypatch):
    norm, images = make_normalization("raw", digits.train), digits.val.subset(np.arange(40))
    ((ours, _),) = eval_batches(images, norm, 224, CPU)
    monkeypatch.setattr(loaders, "small_array", lambda _: None)
    ((theirs, _),) = eval_batches(images, norm, 224, CPU)
    assert (ours - theirs).abs().max() <= 2.0  # in 0..255
    white = np.full((224, 224, 3), 255, np.uint8)
    assert torch.allclose(normalized([white], norm, CPU)[0, :, 0, 0], 255 - 255 * torch.tensor(norm.mean), atol=1e-3)


def test_large_images_of_several_sizes(tmp_path):
    for i, size in enumerate([(120, 300), (500, 375), (97, 97), (256, 256)]):
        for split in ("train", "val"):
            (tmp_path / split / str(i % 2)).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (10 * i, 0, 0)).save(tmp_path / split / str(i % 2) / f"{i}.png")
    opened = open_(datasets.load(str(tmp_path)), batch_size=4, input_scale="raw")
    assert opened.kind == "workers"
    ((images, labels),) = itertools.islice(opened.train(0), 1)
    assert images.std((2, 3)).max() < 1e-3
    reds = images[:, 0, 0, 0] + 255 * opened.norm.mean[0]
    assert sorted(reds.round().tolist()) == [0, 10, 20, 30]
    assert labels.tolist() == [round(red / 10) % 2 for red in reds.tolist()]
