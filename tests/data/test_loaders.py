"""Both loaders: the transforms, the order, the share of each process, the choice between them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import recipes
from alexnet.data import datasets, loaders
from alexnet.data.splits import Images
from alexnet.data.statistics import normalization
from alexnet.data.stores import Pixels
from alexnet.data.transforms import Augmentation, EvalTransform, TrainTransform

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


def open_(dataset: datasets.Dataset, shard: loaders.Shard = loaders.Shard(), **changes: object) -> loaders.Batches:  # noqa: B008
    recipe = recipes.quickstart(**changes)
    norm = normalization(recipe.input_scale, dataset.train)
    return loaders.open_batches(dataset, recipe, norm, 224, CPU, shard)


def test_raw_is_pixels_minus_the_mean(digits: datasets.Dataset) -> None:
    norm = normalization("raw", digits.train)
    pixels = digits.train.array()
    assert pixels is not None
    assert np.allclose(np.array(norm.mean) * 255, pixels.reshape(-1, 3).mean(0))
    assert norm.std == (1 / 255,) * 3
    white = Image.new("RGB", (256, 256), (255, 255, 255))
    out = EvalTransform(224, norm)(white)
    assert torch.allclose(out[:, 0, 0], 255 - 255 * torch.tensor(norm.mean), atol=1e-3)


def test_both_loaders_give_the_same_order(digits: datasets.Dataset) -> None:
    resident, workers = open_(digits, loader="resident"), open_(digits, loader="workers")
    assert (resident.kind, workers.kind) == ("resident", "workers")
    for epoch in (0, 1):
        ours = [labels for _, labels in itertools.islice(resident.train(epoch), 3)]
        theirs = [labels for _, labels in itertools.islice(workers.train(epoch), 3)]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_both_ways_to_judge_give_the_same_images(digits: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = normalization("raw", digits.train)
    ours = list(loaders.eval_batches(digits.val, norm, 224, CPU))
    monkeypatch.setattr(loaders, "are_small", lambda _: False)
    theirs = list(loaders.eval_batches(digits.val, norm, 224, CPU))
    assert sum(len(labels) for _, labels in ours) == len(digits.val)
    for (images, labels), (others, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, other_labels)
        assert (images - others).abs().max() <= 2.0  # in 0..255


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_starting_in_the_middle_gives_the_same_batches(digits: datasets.Dataset, loader: str) -> None:
    batches = open_(digits, loader=loader)
    whole = list(itertools.islice(batches.train(1), 4))
    torch.rand(7)  # the global state must not matter
    rest = list(itertools.islice(open_(digits, loader=loader).train(1, start=2), 2))
    for (images, labels), (again, labels_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


def test_workers_leave_the_global_random_state_alone(digits: datasets.Dataset) -> None:
    dataset = loaders._Transformed(
        digits.train, TrainTransform(224, normalization("raw", digits.train), Augmentation())
    )
    before = torch.get_rng_state()
    first, second, other = dataset[0, 11][0], dataset[0, 11][0], dataset[0, 12][0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_starting_workers_leaves_the_global_random_state_alone(digits: datasets.Dataset) -> None:
    """That state drives dropout, and a resumed run starts its workers at another step."""
    before = torch.get_rng_state()
    batches = open_(digits, loader="workers")
    next(batches.train(0))
    next(batches.train(1))
    batches.close()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_an_epoch_is_every_image_once(digits: datasets.Dataset, loader: str) -> None:
    batches = open_(digits, loader=loader)
    sizes, counts = [], np.zeros(10, dtype=int)
    for images, labels in batches.train(0):
        sizes.append(len(images))
        counts += np.bincount(labels.numpy(), minlength=10)
    assert len(sizes) == batches.steps_per_epoch
    assert sizes[:-1] == [32] * (len(sizes) - 1)
    assert counts.tolist() == np.bincount(digits.train.labels, minlength=10).tolist()


def test_processes_share_each_batch(digits: datasets.Dataset) -> None:
    whole = next(open_(digits).train(0))
    parts = [next(open_(digits, loaders.Shard(rank, 2)).train(0)) for rank in (0, 1)]
    for rank, (images, labels) in enumerate(parts):
        assert torch.equal(images, whole[0][rank::2])
        assert torch.equal(labels, whole[1][rank::2])


def test_a_killed_worker_is_one_line_and_a_bug_is_a_bug() -> None:
    """What torch says of a killed worker, our own child or a fork server's, and of a full /dev/shm."""
    for told in (
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
        "Pin memory thread exited unexpectedly",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)",
    ):
        with (
            pytest.raises(OSError, match=r"^a data worker was killed .*/dev/shm.* `--resume` .*"),
            loaders.workers_alive(),
        ):
            raise RuntimeError(told)
    with pytest.raises(RuntimeError, match="a bug"), loaders.workers_alive():
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\na bug")


def test_workers_that_cannot_be_started_are_one_line(digits: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(loaders.DataLoader, "__iter__", refuse)
    with pytest.raises(OSError, match="temporarily unavailable"):
        next(open_(digits, loader="workers").train(0))


def test_signals_stay_held_while_a_fork_server_starts() -> None:
    """Python's resource tracker, which then starts too, lets both through again as it does."""
    code = """
import multiprocessing.resource_tracker, signal
multiprocessing.set_start_method("forkserver")
from alexnet.data import loaders
with loaders._signals_held():
    multiprocessing.resource_tracker.ensure_running()
    assert {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_seeds_and_epochs_differ(digits: datasets.Dataset) -> None:
    orders = {tuple(loaders.epoch_order(100, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_crops_and_noise_are_drawn_anew_in_each_epoch_and_for_each_seed(digits: datasets.Dataset) -> None:
    places, crops, noises = set(), set(), set()
    for seed in range(2):
        resident, workers = (open_(digits, loader=kind, seed=seed) for kind in ("resident", "workers"))
        for epoch in range(2):
            places.add(tuple(resident._boxes(epoch).left.tolist()))  # type: ignore[attr-defined]
            workers.sampler.epoch = epoch  # type: ignore[attr-defined]
            crops.add(next(iter(workers.sampler))[0][1])  # type: ignore[attr-defined]
            recipe = recipes.quickstart(color_noise="std", input_scale="mean-image", seed=seed)
            noises.add(loaders._noise_draws(4, recipe, epoch)[0, 0].item())
    assert len(places) == len(crops) == len(noises) == 4


def test_digits_are_never_mirrored(digits: datasets.Dataset) -> None:
    assert not open_(digits, flip=True).augmentation.flip  # type: ignore[attr-defined]


def test_refusals(digits: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"--batch-size 5000: digits has only 1438"):
        open_(digits, batch_size=5000)
    with pytest.raises(ValueError, match="last batch has 30 images for 31 processes"):
        open_(digits, loaders.Shard(0, 31))
    large = Images(np.arange(4) % 2, Pixels(np.zeros((4, 200, 200, 3), dtype=np.uint8), "large"))
    photos = datasets.Dataset("photos", "photos", ("a", "b"), large, large, "val")
    with pytest.raises(ValueError, match=r"--loader resident: the images of photos are 200×200"):
        open_(photos, loader="resident", batch_size=2, input_scale="imagenet")


def two_colours() -> datasets.Dataset:
    pixels = np.full((8, 8, 8, 3), 100, np.uint8)
    pixels[::2] = [40, 90, 120]
    images = Images(np.arange(8) % 2, Pixels(pixels, "two"))
    return datasets.Dataset("two", "two", ("a", "b"), images, images, "val")


@pytest.mark.parametrize("loader", ["resident", "workers"])
def test_colour_noise_is_drawn_for_each_seed_and_the_same_from_the_middle(loader: str) -> None:
    """Even images, so that crops do not matter."""

    def batch(seed: int, start: int) -> torch.Tensor:
        batches = open_(two_colours(), loader=loader, seed=seed, batch_size=4, color_noise="std")
        (images, labels), *_ = itertools.islice(batches.train(1, start), 1)
        batches.close()
        return images[labels.argsort(stable=True)][:, :, 0, 0]

    opened = open_(two_colours(), loader=loader, seed=0, batch_size=4, color_noise="std")
    (_, _), (whole, labels) = opened.train(1)
    opened.close()
    assert torch.equal(whole[labels.argsort(stable=True)][:, :, 0, 0], batch(0, 1))
    assert not torch.equal(batch(0, 1), batch(1, 1))
