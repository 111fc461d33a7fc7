"""The doctor: what it measures, and its verdict on the ten pairs of input scale and initialisation."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from alexnet import recipes
from alexnet.model import INITS, AlexNet_2012
from alexnet.run import doctor

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "cifar10-jpeg"
RECORD = ROOT / "results" / "learning.json"


def test_probe_by_hand() -> None:
    torch.manual_seed(0)
    net, images, labels = AlexNet_2012(4), torch.randn(3, 3, 224, 224) * 60, torch.tensor([0, 1, 2])
    layers = doctor.probe(net, images, labels)
    assert [layer.name for layer in layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    with torch.no_grad():
        first, last = net.features.conv1(images), net(images)
    for layer, out in ((layers[0], first), (layers[-1], last)):
        assert layer.signal_std == pytest.approx(math.sqrt(out.var(0).mean().item()), rel=1e-3)
        assert layer.signal_mean == pytest.approx(math.sqrt(out.mean(0).square().mean().item()), rel=1e-3)
        assert layer.grad_std > 0
    assert all(parameter.grad is None for parameter in net.parameters())


def layers(first: float, last: float, shared: float) -> list[doctor.Layer]:
    return [doctor.Layer("conv1", first, 1, 0), doctor.Layer("fc8", last, shared, 0)]


@pytest.mark.parametrize(
    ("last", "shared", "recipe", "learns", "words"),
    [
        (0.03, 0.76, recipes.classic(), True, ["differ by 0.03"]),
        (
            0.012,
            0.98,
            recipes.reference(init="source"),
            False,
            ["differ by 0.012", "1.2%", "'source'", "--input-scale raw"],
        ),
        (
            1.7e-4,
            3.4e-4,
            recipes.reference(),
            False,
            ["0.00017", "'zero-bias'", "'imagenet'", "--input-scale raw", "--init he"],
        ),
        (0.0098, 0.89, recipes.paper(init="paper"), False, ["1.1%", "'mean-image'", "'paper'", "--init source"]),
        (15.0, 35.0, recipes.classic(init="he"), False, ["differ by 15", "--input-scale imagenet", "--init paper"]),
    ],
)
def test_verdicts_in_words(last: float, shared: float, recipe: recipes.Recipe, learns: bool, words: list[str]) -> None:
    will_learn, reason = doctor.verdict(layers(0.12, last, shared), recipe)
    assert will_learn is learns
    assert all(word in reason for word in words)
    assert "\n" not in reason


def test_digits_with_a_chance() -> None:
    good = doctor.examine(recipes.quickstart())
    assert good["will_learn"] is True
    assert {"name", "signal_std", "grad_std"} <= set(good["layers"][0])
    assert json.loads(json.dumps(good)) == good


@pytest.mark.slow
def test_digits_without_a_chance() -> None:
    bad = doctor.examine(recipes.quickstart(input_scale="imagenet", init="zero-bias"))
    assert bad["will_learn"] is False
    assert "will not start to learn" in doctor.report(bad)


def test_without_a_recipe_or_without_data(tmp_path: Path) -> None:
    machine = doctor.examine()
    assert "will_learn" not in machine
    assert machine["disk_free_gb"] > 0
    assert machine["matrix_tflops"] > 0
    absent = doctor.examine(recipes.classic(data_dir=str(tmp_path)))
    assert absent["will_learn"] is None
    assert "cannot tell" in doctor.report(absent)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs a folder with CIFAR-10 images beside the checkout")
@pytest.mark.skipif(not RECORD.is_file(), reason="needs the record of benchmarks/learning.py")
def test_verdicts_are_those_of_300_real_steps() -> None:
    runs = json.loads(RECORD.read_text())["runs"]
    pairs = {(run["input_scale"], run["init"]) for run in runs}
    assert pairs == set(itertools.product(("raw", "imagenet"), INITS.keys() - {"caffenet"}))  # newer than the record
    for run in runs:
        recipe = recipes.classic(input_scale=run["input_scale"], init=run["init"], data=str(FOLDER))
        will_learn, reason = doctor.verdict(doctor._probe_recipe(recipe), recipe)
        assert will_learn is (run["learned_at"] is not None), (run["input_scale"], run["init"], reason)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs a folder with CIFAR-10 images beside the checkout")
def test_the_papers_recipe_starts_and_its_text_would_not() -> None:
    """Trials of 100 steps agree: docs/training.md."""
    for init, learns in (("source", True), ("paper", False)):
        recipe = recipes.paper(data=str(FOLDER), init=init)
        assert doctor.verdict(doctor._probe_recipe(recipe), recipe)[0] is learns
