"""The eight experiments: told in full, valid in both forms, and every one of them runs to a record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet import model
from alexnet.cli import main
from alexnet.recipes import Recipe, field_types
from alexnet.reproduce.catalogue import EXPERIMENTS
from alexnet.reproduce.conduct import conduct
from alexnet.reproduce.convnet.network import NETWORKS
from alexnet.reproduce.experiment import Arm, Experiment, Small, Stage
from tiny import WIDTHS

NAMES = ("figure-1", "lrn", "overlap", "dropout", "ten-crop", "colour", "biases", "depth")


def test_there_are_eight() -> None:
    assert tuple(EXPERIMENTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_told_in_full(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert all((experiment.claim, experiment.source, experiment.cost, experiment.short))
    assert experiment.seeds >= 3
    assert any(comparison.decides for comparison in experiment.rule)
    assert all(comparison.least > (1 if comparison.ratio else 0) for comparison in experiment.rule)
    assert len({arm.name for arm in experiment.arms}) == len(experiment.arms)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [False, True])
def test_settings_are_valid(name: str, full: bool) -> None:
    for arm in EXPERIMENTS[name].arms:
        settings = arm.settings(full=full)
        if isinstance(settings, Small):
            assert settings.network in NETWORKS
        if isinstance(settings, Recipe):
            assert set(arm.short) <= set(field_types())
            assert full == (settings.widths == "full")
        assert full or settings is None or settings != arm.run or not arm.short


def test_the_published_schedules() -> None:
    lrn = {arm.name: arm.run for arm in EXPERIMENTS["lrn"].arms}
    assert [run.epochs for run in lrn.values()] == [520, 520, 160]  # type: ignore[union-attr]
    assert EXPERIMENTS["lrn"].rule[0].worse == "11pct without its norms"


def test_figure_1_has_two_networks_two_initialisations_and_no_regularisation() -> None:
    runs = [arm.run for arm in EXPERIMENTS["figure-1"].arms]
    assert all(isinstance(run, Small) and (run.decay, run.crop, run.stop_at) == (0, 32, 25) for run in runs)
    told = {(run.network, run.init, run.neuron) for run in runs if isinstance(run, Small)}
    assert told == {(n, i, f) for n in ("13pct", "19pct") for i in ("2012", "today") for f in ("relu", "tanh")}
    assert [len(arm.rates) for arm in EXPERIMENTS["figure-1"].arms] == [3] * 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.RandomState(0).randint(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    for i, pixels in enumerate(noise):
        place = folder / ("train" if i < 20 else "val") / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def tiny(arm: Arm) -> Arm:
    if isinstance(arm.run, Small):
        return replace(arm, short={"images": 8, "stages": (Stage(1),)}, rates=arm.rates[:1])
    short: dict[str, Any] = {"images": 4, "batch_size": 2, "epochs": 1, "max_steps": None, "val_every": 1, "lr": 1e-4}
    return replace(arm, short=short)


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_to_its_record(name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for networks in ("VARIANTS", "ABLATIONS"):
        small = {key: replace(value, widths=WIDTHS) for key, value in getattr(model, networks).items()}
        monkeypatch.setattr(model, networks, small)
    experiment: Experiment = EXPERIMENTS[name]
    experiment = replace(experiment, arms=tuple(tiny(arm) for arm in experiment.arms))
    done = conduct(experiment, data=str(images), out=tmp_path / "x", seeds=1, device="cpu", quiet=True, say=len)
    assert done.record is not None
    assert (done.record["experiment"], done.record["verdict"]) == (name, "too few runs")
    assert [arm["name"] for arm in done.record["arms"]] == [arm.name for arm in experiment.arms]
    for arm in done.record["arms"]:
        assert len(arm["values"]) == 1
        assert arm["also"].keys() == {measure.name for measure in experiment.measures[1:]}
    assert (tmp_path / "x" / f"{name}.png").is_file()


# --- the command


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert main(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["experiment"] for entry in listed] == list(NAMES)
    for entry in listed:
        assert entry["claim"]
        assert entry["source"]
        assert entry["cost"]
        assert entry["experiment"] in text
        assert entry["cost"] in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["figur-1"], "experiment figur-1: allowed is one of figure-1, .* (did you mean figure-1?)"),
        (["nothing.py"], "experiment nothing.py: no such file"),
        (["lrn", "--seeds", "0"], "--seeds 0: allowed is 1 or more"),
        (["lrn", "--data", "nowhere"], "--data 'nowhere': no such data set or folder"),
    ],
)
def test_refusals(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message.split(".*")[0] in said
    assert message.split(".*")[-1] in said
