"""Resizing and normalisation against torchvision, Pillow and OpenCV; statistics against numpy on all pixels at once."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1

from alexnet.data import normalization
from alexnet.data.datasets import Files, Images, Pixels
from alexnet.data.normalization import (
    Normalization,
    central_pixels,
    encode_mean_image,
    make_normalization,
    mean_pixels,
    normalized,
    resampling_matrix,
    statistics,
)

CPU = torch.device("cpu")
PLAIN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(400, 300), (40, 50), (300, 2000)])
def test_resizing_is_torchvisions(size):
    ours = central_pixels(picture(*size), 224)
    theirs = np.asarray(v1.Compose([v1.Resize(256), v1.CenterCrop(224)])(picture(*size)))
    gaps = np.abs(ours.astype(int) - theirs)  # torch and Pillow round differently in few places
    assert gaps.max() <= 1
    assert (gaps > 0).mean() < 0.03
    expected = v1.Normalize(PLAIN.mean, PLAIN.std)(v1.functional.to_tensor(ours))
    assert torch.allclose(normalized([ours], PLAIN, CPU)[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(400, 300), (300, 1000), (700, 40), (256, 256)])
def test_warping_is_opencvs(size):
    """``cv::resize`` as Caffe's tools/convert_imageset calls it, to one level: it rounds in fixed point."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    theirs = cv2.resize(np.asarray(picture(*size)), (256, 256)).astype(int)
    ours = central_pixels(picture(*size), resize="warp")
    assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(central_pixels(picture(*size), 227, "warp"), ours[14:241, 14:241])


@settings(max_examples=20)
@given(source=st.integers(1, 80), target=st.integers(1, 80))
def test_resampling_is_pils(source, target):
    matrix = resampling_matrix(source, target)
    assert torch.allclose(matrix.sum(1), torch.ones(target, dtype=torch.float64))
    line = np.random.default_rng(0).uniform(0, 255, source).astype(np.float32)
    image = Image.fromarray(np.repeat(line[:, None], 2, axis=1), mode="F")
    theirs = np.asarray(image.resize((2, target), Image.Resampling.BILINEAR))[:, 0]
    assert np.abs(matrix.numpy() @ line - theirs).max() < 0.01


def test_the_mean_image_is_resized_as_images_are_and_cropped_with_them():
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 5, 3))
    norm = dataclasses.replace(PLAIN, mean_image=encode_mean_image(pixels))
    assert np.allclose(mean_pixels(norm).permute(1, 2, 0), pixels, atol=1e-4)
    theirs = [Image.fromarray(pixels[..., c].astype(np.float32)).resize((256, 256), 2) for c in range(3)]
    assert np.allclose(mean_pixels(norm, 256), np.stack(theirs), atol=0.01)
    image = picture(256, 256)
    mean = dataclasses.replace(PLAIN, mean_image=encode_mean_image(np.asarray(image, float)))
    assert normalized([central_pixels(image, 227)], mean, CPU).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [
    {"mean": (0.1, 0.2)}, {"mean": (0.1, 0.2, float("nan"))}, {"std": (1.0, 0.0, 1.0)}, {"std": (True, 1.0, 1.0)},
    {"resize": "fit"}, {"mean_image": "?"}, {"mean_image": "AAAA"},
    {"mean_image": encode_mean_image(np.full((1, 1, 3), np.inf))},
])  # fmt: skip
def test_what_cannot_be_used_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(PLAIN, **changes)


# Statistics


def test_statistics_are_numpys():
    random = np.random.default_rng(0)
    light = random.integers(0, 160, (2300, 12, 12, 1))  # colours that vary together, more images than one block
    pixels = (light + random.integers(0, 90, (2300, 12, 12, 3)) * [1.0, 0.5, 0.1]).astype(np.uint8)
    images = Images(np.zeros(2300, np.int64), Pixels(pixels, "noise"))
    found, flat = statistics(images), pixels.reshape(-1, 3).astype(float)
    assert np.allclose(found.mean_image, pixels.mean(0))
    assert np.allclose(found.mean, flat.mean(0))
    assert np.allclose(found.std, flat.std(0))
    assert np.allclose(found.covariance, np.cov(flat.T, bias=True))
    values, vectors = found.components
    assert (np.diff(values) <= 0).all()
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, found.covariance)
    raw, mean_image = (make_normalization(scale, images) for scale in ("raw", "mean-image"))
    assert np.allclose(np.array(raw.mean) * 255, flat.mean(0))
    assert raw.std == (1 / 255,) * 3
    assert np.allclose(mean_pixels(mean_image).permute(1, 2, 0), pixels.mean(0), atol=1e-3)


def test_large_images_count_with_their_central_patch(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, size in zip(paths, [(300, 280), (256, 512), (900, 100)], strict=True):
        picture(6, 6).resize(size).save(path)
    images = Images(np.zeros(3, np.int64), Files(paths))
    patches = np.stack([central_pixels(images.image(i)) for i in range(3)]).astype(float)
    found = statistics(images)
    assert np.allclose(found.mean, patches.mean((0, 1, 2)))
    assert np.allclose(found.covariance, np.cov(patches.reshape(-1, 3).T, bias=True))
    assert np.allclose(found.mean_image, patches.mean(0).reshape(32, 8, 32, 8, 3).mean((1, 3)))
    monkeypatch.setattr(normalization, "LARGE_IMAGES", 2)  # of many, some at equal distances
    assert np.allclose(statistics(images.subset([0, 1, 2])).mean, patches[[0, 2]].mean((0, 1, 2)))
