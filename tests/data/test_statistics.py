"""Statistics of a data set: against numpy on all pixels at once, and their cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data import datasets, statistics
from alexnet.data.splits import Images
from alexnet.data.stores import Files, Pixels

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alexnet-2012"


def small(seed: int = 0, count: int = 2300, side: int = 12) -> Images:
    """Images with colours that vary together, more of them than one block."""
    random = np.random.default_rng(seed)
    light = random.integers(0, 160, (count, side, side, 1))
    pixels = (light + random.integers(0, 90, (count, side, side, 3)) * [1.0, 0.5, 0.1]).astype(np.uint8)
    return Images(np.zeros(count, np.int64), Pixels(pixels, "noise"))


def files(folder: Path, sizes: list[tuple[int, int]]) -> Images:
    random, paths = np.random.default_rng(1), []
    for number, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (6, 6, 3), np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).resize((width, height)).save(paths[-1])
    return Images(np.zeros(len(paths), np.int64), Files(paths))


@pytest.mark.usefixtures("cache")
def test_figures_are_numpys() -> None:
    images = small()
    found, pixels = statistics.statistics(images), images.array()
    assert pixels is not None
    flat = pixels.reshape(-1, 3).astype(float)
    assert np.allclose(found.mean_image, pixels.mean(0))
    assert np.allclose(found.mean, flat.mean(0))
    assert np.allclose(found.std, flat.std(0))
    assert np.allclose(found.covariance, np.cov(flat.T, bias=True))
    values, vectors = found.components
    assert (np.diff(values) <= 0).all()
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, found.covariance)
    assert np.allclose(vectors.T @ vectors, np.eye(3))


@pytest.mark.usefixtures("cache")
def test_large_images_count_with_their_central_patch(tmp_path: Path) -> None:
    images = files(tmp_path, [(300, 280), (256, 512), (900, 100)])
    found = statistics.statistics(images)
    patches = []
    for index in range(3):
        image = images.image(index)
        scale = 256 / min(image.size)
        image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = round((image.width - 256) / 2), round((image.height - 256) / 2)
        patches.append(np.asarray(image.crop((left, top, left + 256, top + 256)), dtype=float))
    assert np.allclose(found.mean, np.mean(patches, axis=(0, 1, 2)), atol=0.01)
    assert np.allclose(found.covariance, np.cov(np.reshape(patches, (-1, 3)).T, bias=True), atol=0.5)
    blocks = np.mean(patches, axis=0).reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.allclose(found.mean_image, blocks, atol=1)


def test_of_many_large_images_some_are_taken(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_LARGE", 2)
    images = files(tmp_path, [(97, 97)] * 3)
    ends = statistics.statistics(images.subset([0, 2])).mean
    assert np.array_equal(statistics.statistics(images).mean, ends)
    assert len(list(cache.iterdir())) == 1  # the same images, the same entry


def test_a_second_call_reads_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = statistics.statistics(small())
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "_computed", lambda _: pytest.fail("computed again"))
        again = statistics.statistics(small())
        with pytest.raises(pytest.fail.Exception):
            statistics.statistics(small(seed=1))  # other images have an entry of their own
    assert np.array_equal(first.mean_image, again.mean_image)
    assert np.array_equal(first.covariance, again.covariance)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def test_changed_files_are_other_images(tmp_path: Path, cache: Path) -> None:
    images = files(tmp_path, [(100, 100)])
    before = statistics.statistics(images).mean
    Image.new("RGB", (100, 100), (10, 20, 30)).save(images.name(0))
    assert not np.allclose(before, [10, 20, 30])
    assert np.allclose(statistics.statistics(images).mean, [10, 20, 30])
    assert len(list(cache.iterdir())) == 2


def test_a_broken_or_forbidden_cache_is_done_without(cache: Path) -> None:
    expected = statistics.statistics(small()).mean
    (entry,) = cache.iterdir()
    for content in (b"", b"not an archive", entry.read_bytes()[:100]):
        entry.write_bytes(content)
        assert np.array_equal(statistics.statistics(small()).mean, expected)
    entry.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert np.array_equal(statistics.statistics(small()).mean, expected)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs a folder with CIFAR-10 images beside the checkout")
def test_cifar10_is_as_known() -> None:
    found = statistics.statistics(datasets.load(str(CIFAR)).train)
    assert found.mean / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    assert found.std / 255 == pytest.approx([0.2470, 0.2435, 0.2616], abs=2e-3)  # not 0.2023, 0.1994, 0.2010
