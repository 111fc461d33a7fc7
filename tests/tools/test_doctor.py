"""The doctor: what it measures, and its verdict against real training steps."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from alexnet import recipes
from alexnet.data import datasets
from alexnet.model import INITS, AlexNet_2012
from alexnet.recipes import Runtime
from alexnet.tools import doctor

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "cifar10-jpeg"
RECORD = ROOT / "results" / "learning.json"
needs_images = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs a folder with CIFAR-10 images beside the checkout")


def test_probe_by_hand():
    torch.manual_seed(0)
    model, images, labels = AlexNet_2012(4), torch.randn(3, 3, 224, 224) * 60, torch.tensor([0, 1, 2])
    layers = doctor.probe(model, images, labels)
    assert [layer["name"] for layer in layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    with torch.no_grad():
        first, last = model.features.conv1(images), model(images)
    for layer, out in ((layers[0], first), (layers[-1], last)):
        assert layer["signal_std"] == pytest.approx(math.sqrt(out.var(0).mean().item()), rel=1e-3)
        assert layer["signal_mean"] == pytest.approx(math.sqrt(out.mean(0).square().mean().item()), rel=1e-3)
        assert layer["grad_std"] > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("last", "common", "recipe", "learns", "values"),
    [
        (0.03, 0.76, recipes.classic(), True, ["0.03"]),
        (0.012, 0.98, recipes.reference(init="source"), False, ["0.012", "1.2%", "source", "raw"]),
        (1.7e-4, 3.4e-4, recipes.reference(), False, ["0.00017", "zero-bias", "imagenet", "raw", "he"]),
        (0.0098, 0.89, recipes.paper(init="paper"), False, ["1.1%", "mean-image", "paper", "source"]),
        (15.0, 35.0, recipes.classic(init="he"), False, ["15", "imagenet", "paper"]),
    ],
)
def test_verdicts(last, common, recipe, learns, values):
    layers = [{"signal_std": 0.12, "signal_mean": 1.0}, {"signal_std": last, "signal_mean": common}]
    will_learn, reason = doctor.verdict(layers, recipe)
    assert will_learn is learns
    assert [value for value in values if value not in reason] == []
    assert "\n" not in reason


def test_digits():
    good = doctor.examine(recipes.quickstart(width_mult=0.25), Runtime(device="cpu"))
    assert good["will_learn"] is True
    assert {"name", "signal_std", "signal_mean", "grad_std"} == set(good["layers"][0])
    assert json.loads(json.dumps(good)) == good
    assert "will start to learn" in doctor.format_report(good)


def test_a_probe_leaves_the_callers_random_numbers_alone():
    recipe, dataset = recipes.quickstart(width_mult=1 / 16, seed=3), datasets.load("digits")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = doctor.probe_recipe(recipe, dataset)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert doctor.probe_recipe(recipe, dataset) == first


def test_without_a_recipe_or_without_data(tmp_path):
    machine = doctor.examine()
    assert set(machine) == {
        "device", "precision", "matrix_tflops", "compiler", "lrn", "trackers", "data", "disk_free_gb", "versions",
    }  # fmt: skip
    assert machine["disk_free_gb"] > 0
    assert machine["matrix_tflops"] > 0
    missing = doctor.examine(recipes.classic(), Runtime(data_dir=str(tmp_path)))
    assert missing["will_learn"] is None
    assert "cannot tell" in doctor.format_report(missing)


@pytest.mark.parametrize("changes", [{"holdout": 1438}, {"batch_size": 1439}, {"tta": "flip"}])
def test_a_recipe_that_does_not_fit_the_data(changes):
    found = doctor.examine(recipes.quickstart(width_mult=1 / 16, **changes))
    assert found["will_learn"] is False
    assert "will not run: quickstart cannot train on these data" in doctor.format_report(found)


@pytest.mark.slow
@needs_images
@pytest.mark.skipif(not RECORD.is_file(), reason="needs results/learning.json")
def test_verdicts_are_those_of_300_real_steps():
    runs = json.loads(RECORD.read_text())["runs"]
    pairs = {(run["input_scale"], run["init"]) for run in runs}
    assert pairs == set(itertools.product(("raw", "imagenet"), INITS.keys() - {"caffenet"}))  # newer than the record
    for run in runs:
        recipe = recipes.classic(input_scale=run["input_scale"], init=run["init"], data=str(FOLDER))
        will_learn, reason = doctor.verdict(doctor.probe_recipe(recipe, datasets.load(recipe.data)), recipe)
        assert will_learn is (run["learned_at"] is not None), (run["input_scale"], run["init"], reason)


@pytest.mark.slow
@needs_images
@pytest.mark.parametrize(("init", "learns"), [("source", True), ("paper", False)])
def test_the_papers_recipe_learns_with_the_released_codes_weights(init, learns):
    """As trials of 100 steps do: docs/training.md."""
    recipe = recipes.paper(data=str(FOLDER), init=init)
    assert doctor.verdict(doctor.probe_recipe(recipe, datasets.load(recipe.data)), recipe)[0] is learns
