"""What an image goes through: against torchvision's own transforms, the mean image and colour noise by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1

from alexnet import recipes
from alexnet.data import datasets, loaders
from alexnet.data.normalization import Normalization, Normalize, _decode_mean_image, encode_mean_image, normalize_small
from alexnet.data.splits import Images
from alexnet.data.statistics import color_noise, normalization, statistics
from alexnet.data.stores import Pixels
from alexnet.data.transforms import Augmentation, ColorNoise, EvalTransform, TrainTransform
from alexnet.weights.card import ModelCard

CPU = torch.device("cpu")
PLAIN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    """Coloured images with a mean image that is far from even."""
    random = np.random.default_rng(3)
    slope = np.linspace(0, 120, 32)[None, :, None, None] * [1.0, 0.5, 0.2]
    pixels = (slope + random.integers(0, 130, (64, 32, 1, 3))).astype(np.uint8).repeat(32, axis=2)
    images = Images(np.arange(64) % 2, Pixels(pixels, "slopes"))
    return datasets.Dataset("slopes", "slopes", ("a", "b"), images, images, "val")


def assert_rounded_alike(ours: torch.Tensor, theirs: torch.Tensor, resized: int) -> None:
    """uint8 pixels of torch's and of Pillow's bilinear interpolation: 1 apart at most, each time and in few places."""
    gaps = (ours.int() - theirs.int()).abs()
    assert gaps.max() <= resized
    assert (gaps > 0).float().mean() < 0.02 * resized


def test_eval_transform_is_torchvisions(photo: Image.Image) -> None:
    crop, normalize = v1.Compose([v1.Resize(256), v1.CenterCrop(224)]), v1.Normalize(PLAIN.mean, PLAIN.std)
    ours = EvalTransform(224, PLAIN)
    assert_rounded_alike(torch.from_numpy(ours.pixels(photo)), torch.from_numpy(np.asarray(crop(photo))), resized=1)
    assert torch.allclose(ours(photo), normalize(v1.functional.to_tensor(ours.pixels(photo))), atol=1e-6)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", ["random-resized", "random"])
def test_train_transform_is_torchvisions(photo: Image.Image, crop: str, flip: bool) -> None:
    crops = {
        "random-resized": [v1.RandomResizedCrop(224, scale=(0.8, 1.0))],
        "random": [v1.CenterCrop(256), v1.RandomCrop(224)],
    }
    flips = [v1.RandomHorizontalFlip()] if flip else []
    theirs = v1.Compose([v1.Resize(256), *crops[crop], *flips, v1.PILToTensor()])
    ours = TrainTransform(224, PLAIN, Augmentation(flip, crop))
    for seed in range(5):
        torch.manual_seed(seed)
        expected = theirs(photo)
        torch.manual_seed(seed)
        assert_rounded_alike(ours(photo), expected, resized=2 if crop == "random-resized" else 1)


def test_mean_image_survives_its_card() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 5, 3))
    norm = Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), encode_mean_image(pixels))
    card = ModelCard("paper", ("a", "b"), norm, "noise")
    again = ModelCard.from_json(card.to_json())
    assert again == card
    assert np.allclose(_decode_mean_image(again.normalization, 5) * 255, pixels, atol=1e-4)
    whole = _decode_mean_image(norm, 256).numpy()
    theirs = [Image.fromarray(pixels[..., c].astype(np.float32)).resize((256, 256), 2) for c in range(3)]
    assert np.allclose(whole * 255, np.stack([np.asarray(t) for t in theirs], axis=-1), atol=0.01)


def test_the_mean_image_is_subtracted_where_each_crop_was(dataset: datasets.Dataset) -> None:
    """The crops of the mean image itself come out as zeros, wherever they are taken and in both paths."""
    norm = normalization("mean-image", dataset.train)
    mean = statistics(dataset.train).mean_image
    picture = Image.fromarray(mean.round().astype(np.uint8))
    assert EvalTransform(224, norm)(picture).abs().max() <= 1.5  # rounded twice: to 8 bits, and by PIL
    for crop in ("random", "random-resized"):
        transform = TrainTransform(224, norm, Augmentation(True, crop))
        assert max(transform(picture).abs().max() for _ in range(5)) <= 1.5
    assert EvalTransform(224, normalization("raw", dataset.train))(picture).abs().max() > 40

    small = normalize_small(norm, 32, CPU)(torch.from_numpy(mean)[None])
    assert small.abs().max() < 1e-3
    batch = torch.from_numpy(np.asarray(picture.resize((256, 256), 2))).permute(2, 0, 1)[None]
    for size in (224, 256):
        far = (256 - size) // 2
        crop_of = batch[..., far : far + size, far : far + size]
        assert Normalize(norm, size)(crop_of).abs().max() <= 1.5


@pytest.mark.parametrize("changes", [{"input_scale": "mean-image"}, {"crop": "random", "color_noise": "std"}])
def test_both_loaders_give_the_same_kind_of_batches(dataset: datasets.Dataset, changes: dict[str, str]) -> None:
    """Crops and noise are drawn apart, so the batches' figures agree, not their pixels."""
    figures = []
    for loader in ("resident", "workers"):
        recipe = recipes.classic(loader=loader, batch_size=64, **changes)
        norm = normalization(recipe.input_scale, dataset.train)
        batches = loaders.open_batches(dataset, recipe, norm, 224, CPU)
        images = torch.cat([x for x, _ in itertools.islice(batches.train(0), 1)])
        figures.append((images.mean((0, 2, 3)), images.std((0, 2, 3))))
    (mean, std), (other_mean, other_std) = figures
    assert torch.allclose(std, other_std, rtol=0.05)
    assert (mean - other_mean).abs().max() < 10


@pytest.mark.parametrize("kind", ["std", "eigenvalue"])
def test_color_noise_has_the_scale_of_its_reading(dataset: datasets.Dataset, kind: str) -> None:
    matrix = color_noise(kind, dataset.train)
    assert matrix is not None
    covariance = statistics(dataset.train).covariance
    values, vectors = np.linalg.eigh(covariance / 255**2)  # of pixel values in 0..1
    scale = np.sqrt(values) if kind == "std" else values
    expected = 255**2 * vectors @ np.diag((0.1 * scale) ** 2) @ vectors.T
    assert np.allclose((matrix @ matrix.T).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert color_noise("none", dataset.train) is None


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_color_noise_is_one_shift_an_image(loader: str) -> None:
    grey = np.full((256, 8, 8, 3), 100, np.uint8)
    grey[::2] = [40, 90, 120]  # so that there is a colour component
    images = Images(np.arange(256) % 2, Pixels(grey, "grey"))
    dataset = datasets.Dataset("grey", "grey", ("a", "b"), images, images, "val")
    recipe = recipes.classic(loader=loader, batch_size=256, color_noise="std", input_scale="imagenet")
    norm = normalization("imagenet", images)
    batches = loaders.open_batches(dataset, recipe, norm, 224, CPU)
    x, labels = next(batches.train(0))
    assert x.std((2, 3)).max() < 1e-4  # the same for all pixels of an image
    pixels = x[:, :, 0, 0] * torch.tensor(norm.std) * 255
    shifts = pixels[labels == 1] - pixels[labels == 1].mean(0)
    direction = torch.tensor([60.0, 10.0, -20.0])  # between the two colours
    along = shifts @ direction / direction.norm()
    assert (shifts - along[:, None] * direction / direction.norm()).abs().max() < 0.05
    assert along.std().item() == pytest.approx(0.1 * direction.norm().item() / 2, rel=0.25)
    again = next(batches.train(0))[0]
    assert torch.equal(x, again)
    assert not torch.equal(x, next(batches.train(1))[0])


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_stds_noise_divides_the_image_and_ends(dataset: datasets.Dataset, loader: str) -> None:
    """As in the released code: (image + noise) / 1.1 while there is noise, the image as it is afterwards."""
    norm, batches = normalization("mean-image", dataset.train), {}
    for kind in ("none", "std"):
        changes = {"input_scale": "mean-image", "crop": "random", "epochs": 4, "color_noise_until": 0.5}
        recipe = recipes.classic(loader=loader, batch_size=64, color_noise=kind, **changes)
        opened = loaders.open_batches(dataset, recipe, norm, 224, CPU)
        batches[kind] = [next(opened.train(epoch))[0] for epoch in (1, 2)]
        opened.close()
    (plain, last), (noisy, after) = batches.values()
    assert torch.equal(last, after)
    shifts = 1.1 * noisy - plain
    assert shifts.std((2, 3)).max() < 1e-3  # one shift of each image's colours
    assert shifts.mean((2, 3)).std(0).max() > 1


def test_eigenvalues_noise_is_added_and_divides_nothing(dataset: datasets.Dataset) -> None:
    norm, batches = normalization("mean-image", dataset.train), []
    for kind in ("none", "eigenvalue"):
        recipe = recipes.classic(batch_size=64, color_noise=kind, input_scale="mean-image", crop="random")
        batches.append(next(loaders.open_batches(dataset, recipe, norm, 224, CPU).train(1))[0])
    shifts = batches[1] - batches[0]
    assert shifts.std((2, 3)).max() < 1e-3
    assert shifts.mean((2, 3)).std(0).max() > 0.01


WARPED = dataclasses.replace(PLAIN, resize="warp")


@pytest.mark.parametrize("size", [(300, 400), (1000, 300), (40, 700), (256, 256), (100, 100)])
def test_warping_is_opencvs(size: tuple[int, int]) -> None:
    """``cv::resize`` as Caffe's tools/convert_imageset calls it, to one level: it rounds in fixed point."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = cv2.resize(pixels, (256, 256)).astype(int)
    image = Image.fromarray(pixels)
    ours = EvalTransform(256, WARPED).pixels(image)
    assert abs(np.asarray(ours) - theirs).max() <= 1
    assert np.array_equal(EvalTransform(227, WARPED).pixels(image), np.asarray(ours)[14:241, 14:241])
    torch.manual_seed(0)
    crop = TrainTransform(227, WARPED, Augmentation(flip=False, crop="random"))(image).permute(1, 2, 0).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ours), (227, 227, 3))[:, :, 0]
    assert (windows == crop).all((2, 3, 4)).any()


def test_a_mean_image_is_subtracted_from_the_warped_image(photo: Image.Image) -> None:
    mean = np.asarray(EvalTransform(256, WARPED).pixels(photo))
    norm = Normalization((0.5, 0.5, 0.5), (1 / 255,) * 3, encode_mean_image(mean), "warp")
    for transform in (EvalTransform(227, norm), TrainTransform(227, norm, Augmentation(flip=False, crop="random"))):
        assert transform(photo).abs().max() < 1e-4
    assert EvalTransform(227, dataclasses.replace(norm, resize="short-side"))(photo).abs().max() > 10


def test_colour_noise_is_of_pixels_whatever_each_channel_is_divided_by() -> None:
    noise = ColorNoise(
        Augmentation(color_noise=torch.arange(9.0).view(3, 3)), Normalization((0.0,) * 3, (0.1, 0.2, 0.4)), CPU
    )
    draws = torch.tensor([[1.0, -2.0, 0.5]])
    shift = noise(torch.zeros(1, 3, 2, 2), draws, 1)[0, :, 0, 0] * torch.tensor([0.1, 0.2, 0.4]) * 255
    torch.testing.assert_close(shift, torch.arange(9.0).view(3, 3) @ draws[0])
