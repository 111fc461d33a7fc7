"""What no recipe has, tried by replacing a part of the code: it does what it says, and only while a run lasts."""

import itertools
from pathlib import Path

import pytest
import torch

import trials
from alexnet import recipes, train
from alexnet.data import datasets, loaders
from alexnet.data.resident import CropMatrices
from alexnet.data.splits import Dataset
from alexnet.data.statistics import normalization
from alexnet.run import schedule


@pytest.fixture(scope="module")
def batches() -> loaders.ResidentBatches:
    digits = datasets.load("digits")
    mirrored = Dataset("x", "x", digits.classes, digits.train, digits.val, "val")
    recipe = recipes.quickstart(crop="random", input_scale="imagenet")
    norm = normalization("imagenet", digits.train)
    found = loaders.open_batches(mirrored, recipe, norm, 224, torch.device("cpu"))
    assert isinstance(found, loaders.ResidentBatches)
    return found


def by_image(batches: loaders.ResidentBatches, epoch: int) -> torch.Tensor:
    count = len(batches.images)
    flip = torch.zeros(count, dtype=torch.bool)
    flip[loaders.epoch_order(count, batches.recipe.seed, epoch)] = batches._boxes(epoch).flip
    return flip


def test_mirrors_alternate(batches: loaders.ResidentBatches) -> None:
    with trials.alternating_mirrors():
        first, second, third = (by_image(batches, epoch) for epoch in range(3))
        tops = batches._boxes(0).top
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 0.4 < first.float().mean() < 0.6
    assert torch.equal(tops, batches._boxes(0).top)  # nothing else is another
    assert not torch.equal(by_image(batches, 0), ~by_image(batches, 1))


def test_a_square_is_cut_out(batches: loaders.ResidentBatches) -> None:
    whole, _ = next(batches.train(0))
    state = torch.get_rng_state()
    with trials.cutout(64):
        cut, _ = next(batches.train(0))
    assert torch.equal(state, torch.get_rng_state())  # that dropout draws from
    gone = (cut == 0).all(1)
    assert gone.sum((1, 2)).max() == 64 * 64  # less where it reaches over an edge
    assert torch.equal(cut[(~gone)[:, None].expand_as(cut)], whole[(~gone)[:, None].expand_as(whole)])
    assert CropMatrices.apply.__name__ == "apply"


def test_a_trial_leaves_the_test_images_closed(tiny_network: None) -> None:
    common = {"data": "digits", "epochs": 1, "holdout": 100, "seed": 0, "images": 256, "widths": "full"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_evaluate", watched := Watched(train._evaluate))
        found = trials.measure("classic", {"warmup": 1.0}, common, ["center"])
    assert found["step"] == 2
    assert found["views"] == {"center": pytest.approx(found["val_acc"])}
    assert found["data"]["val_split"] == "holdout"
    assert watched.counts == [found["data"]["val"]]


class Watched:
    def __init__(self, real) -> None:  # type: ignore[no-untyped-def]
        self.real, self.counts = real, []

    def __call__(self, s, images, *more):  # type: ignore[no-untyped-def]
        self.counts.append(len(images))
        return self.real(s, images, *more)


def test_dropout_grows(tiny_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = train.train_step

    def step(s, images, labels):  # type: ignore[no-untyped-def]
        seen.append(s.net.classifier.drop6.p)
        return real(s, images, labels)

    monkeypatch.setattr(train, "train_step", step)
    with trials.growing_dropout():
        train.run(recipes.quickstart(images=40, batch_size=10, epochs=2), out=tmp_path / "run", quiet=True)
    assert seen == pytest.approx([0.5 * done / 8 for done in range(8)])
    assert train.train_step is step


def test_the_rate_falls_in_a_straight_line() -> None:
    recipe = recipes.classic(lr=0.1, warmup=1, epochs=3)
    with trials.straight_line():
        rates = [schedule.learning_rate(recipe, step, 10) for step in range(30)]
    falls = [a - b for a, b in itertools.pairwise(rates[10:])]
    assert falls == pytest.approx([0.1 / 20] * 19)
    assert schedule.learning_rate(recipe, 11, 10) != pytest.approx(rates[11])
