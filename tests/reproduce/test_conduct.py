"""An experiment from its first run to its record: sweeps, resuming after kills, refusals, and one of one's own."""

import json
import os
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data import datasets
from alexnet.recipes import classic
from alexnet.reproduce import catalogue, conduct
from alexnet.reproduce.conduct import SWEEP_SEED
from alexnet.reproduce.convnet import small
from alexnet.reproduce.experiment import Arm, Experiment, Small, Stage
from alexnet.reproduce.measures import OVERFITTING, TEST_ERROR, Measure, epochs_until, training_loss
from alexnet.reproduce.outcome import Finished
from alexnet.reproduce.verdicts import Comparison
from forked import Command

TINY = Small("19pct", init="today", crop=32, decay=0, rate=0.02, images=64, stages=(Stage(2),))
END = Measure("last training loss", lambda outcome: outcome.rows[-1]["train_loss"])


def experiment(*arms: Arm, measures: tuple[Measure, ...] = (END,), **more: Any) -> Experiment:
    rule = (Comparison(arms[0].name, arms[-1].name, measures[0].name, least=0.01, paper="none"),)
    facts = {"name": "tiny", "claim": "a claim", "source": "here", "short": "tiny", "cost": "seconds"}
    return Experiment(arms=arms, measures=measures, rule=rule, **(facts | more))


def run(tested: Experiment, out: Path, data: str = "digits", **options: Any) -> dict[str, Any]:
    said: list[str] = []
    done = conduct.conduct(tested, data=data, out=out, device="cpu", quiet=True, say=said.append, **options)
    assert done.record is not None
    return done.record | {"said": said}


RELU, TANH = Arm("relu", TINY), Arm("tanh", replace(TINY, neuron="tanh"))


def test_a_record_has_what_was_promised(tmp_path: Path) -> None:
    record = run(experiment(RELU, TANH, measures=(END, TEST_ERROR)), tmp_path / "x", seeds=3)
    promised = {"experiment", "claim", "source", "arms", "verdict", "reason"}
    assert promised < record.keys()
    for arm in record["arms"]:
        assert {"name", "settings", "seeds", "values", "mean", "std"} < arm.keys()
        assert arm["seeds"] == [0, 1, 2]
        assert arm["mean"] == pytest.approx(sum(arm["values"]) / 3)
        assert len(arm["also"][TEST_ERROR.name]) == 3
    assert record["arms"][1]["settings"]["neuron"] == "tanh"
    assert {"precision", "hardware", "versions", "commit", "date", "command"} < record.keys()
    assert (tmp_path / "x" / "tiny.png").stat().st_size > 1000
    kept = json.loads((tmp_path / "x" / "record.json").read_text())
    assert kept == {name: value for name, value in record.items() if name != "said"}
    assert str(tmp_path) not in json.dumps(kept)
    for arm in ("relu", "tanh"):
        for seed in range(3):
            files = {file.name for file in (tmp_path / "x" / arm / f"seed-{seed}").iterdir()}
            assert {"config.json", "metrics.jsonl", "result.json"} < files
    assert record["said"][0] == "tiny: relu, seed 0; run 1 of 6"
    assert re.fullmatch(r"tiny: tanh, seed 2; run 6 of 6, about .* left", record["said"][5])


def test_arms_have_folders_of_their_own() -> None:
    for names in (("rate 1e-3", "rate 1e+3"), ("α", "β"), ("x", "x")):
        with pytest.raises(ValueError, match="need names whose folders differ"):
            experiment(*(Arm(name, TINY) for name in names))
    with pytest.raises(ValueError, match="arm views needs a run of its own or the name of an arm before it"):
        experiment(Arm("views", of="relu"), RELU)


@pytest.mark.parametrize("full", [False, True])
def test_what_was_not_reached_counts_as_where_the_run_ended(tmp_path: Path, full: bool) -> None:
    never = epochs_until(0)
    arms = [replace(arm, run=replace(TINY, stages=(Stage(3),)), short={"stages": (Stage(1),)}) for arm in (RELU, TANH)]
    tested = experiment(*arms, measures=(never,), file="mine.py")
    tested = replace(tested, rule=(replace(tested.rule[0], ratio=True, limit="end"),))
    record = run(tested, tmp_path / "x", seeds=3, full=full)
    assert f"reached by neither in {3 if full else 1}" in record["findings"][0]["sentence"]
    assert record["command"].startswith("alexnet reproduce mine.py --data digits")


def test_digits_settle_nothing(tmp_path: Path) -> None:
    record = run(experiment(RELU, TANH), tmp_path / "x", seeds=3)
    assert record["verdict"] == "too few runs"
    assert record["reason"].startswith("Digits settle nothing")


def test_finished_runs_are_never_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = experiment(RELU, TANH)
    before = run(tested, tmp_path / "x", seeds=1)
    trained: list[int] = []
    train = small.train
    monkeypatch.setattr(small, "train", lambda s, seed, *a, **k: (trained.append(seed), train(s, seed, *a, **k))[1])
    after = run(tested, tmp_path / "x", seeds=1, resume=True)
    assert trained == []
    assert after == before | {"said": []}
    run(tested, tmp_path / "x", seeds=2, resume=True)  # more seeds of the same
    assert trained == [1, 1]


def test_refusals(tmp_path: Path) -> None:
    tested = experiment(RELU, TANH)
    run(tested, tmp_path / "x", seeds=1)
    with pytest.raises(ValueError, match=r"--out .*: already exists; name another, or go on with --resume"):
        run(tested, tmp_path / "x", seeds=1)
    other = experiment(RELU, replace(TANH, run=replace(TINY, rate=0.5)))
    with pytest.raises(ValueError, match=r"--resume: .* was begun with another choice of arms"):
        run(other, tmp_path / "x", seeds=1, resume=True)
    with pytest.raises(ValueError, match="another choice of full"):
        run(tested, tmp_path / "x", seeds=1, resume=True, full=True)
    for name, more in (("measures", (END, OVERFITTING)), ("rule", (END,))):
        changed = experiment(RELU, TANH, measures=more)
        if name == "rule":
            changed = replace(changed, rule=(replace(changed.rule[0], least=1.0),))
        with pytest.raises(ValueError, match=f"another choice of {name}"):
            run(changed, tmp_path / "x", seeds=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "last.ckpt").touch()
    with pytest.raises(ValueError, match=r"--resume: .* holds no experiment"):
        run(tested, tmp_path / "other", seeds=1, resume=True)
    misspelt = experiment(RELU, Arm("x", replace(TINY, network="19pc")))
    with pytest.raises(ValueError, match=r"19pc.*did you mean 19pct"):
        run(misspelt, tmp_path / "new", seeds=1)
    assert not (tmp_path / "new").exists()


def test_a_plan_of_an_older_version_goes_on(tmp_path: Path) -> None:
    tested = experiment(RELU, TANH)
    run(tested, tmp_path / "x", seeds=1)
    plan = json.loads((tmp_path / "x" / "plan.json").read_text())
    for name in ("views", "measures", "rule"):
        del plan[name]
    (tmp_path / "x" / "plan.json").write_text(json.dumps(plan))
    assert run(tested, tmp_path / "x", seeds=2, resume=True)["arms"][0]["seeds"] == [0, 1]


def test_a_lost_run_has_no_values_and_is_no_trace(tmp_path: Path) -> None:
    lost = Arm("lost", replace(TINY, rate=1e30))
    record = run(experiment(RELU, lost, measures=(TEST_ERROR, OVERFITTING)), tmp_path / "x", seeds=3)
    assert record["arms"][1]["values"] == record["arms"][1]["also"][OVERFITTING.name] == [None] * 3
    assert record["verdict"] == "too few runs"
    json.loads((tmp_path / "x" / "record.json").read_text(), parse_constant=pytest.fail)


def test_overfitting_is_judged_by_the_images_learned_from(tmp_path: Path) -> None:
    dataset = datasets.load("digits")
    settings = classic(holdout=200, images=100)
    seen = Finished(tmp_path, settings, RELU, dataset, torch.device("cpu"))._trained_on()
    learned = dataset.with_holdout(200).with_fewer(100).train
    assert [seen.name(i) for i in range(len(seen))] == [learned.name(i) for i in range(len(learned))]


def test_a_sweep_goes_beyond_its_rates_where_the_best_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int]] = []

    def train(settings: Small, seed: int, _dataset: object, folder: Path, *_: object, **__: object) -> bool:
        seen.append((settings.rate, seed))
        folder.mkdir(parents=True)
        loss = abs(settings.rate - 0.4)
        row = {"step": 1, "epoch": 1, "train_loss": loss, "train_acc": 50.0}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return True

    monkeypatch.setattr(small, "train", train)
    arm = Arm("relu", TINY, rates=(0.05, 0.1))
    record = run(experiment(arm, TANH, choose=END), tmp_path / "x", seeds=2)
    assert seen[:5] == [(rate, SWEEP_SEED) for rate in (0.05, 0.1, 0.2, 0.4, 0.8)]
    assert {(0.4, 0), (0.4, 1)} <= set(seen)
    assert [point["rate"] for point in record["arms"][0]["sweep"]] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert record["arms"][0]["settings"]["rate"] == 0.4
    assert record["said"][5] == "tiny: relu, seed 0; run 6 of 9, about 0 s left"


def test_a_race_ends_with_its_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: dict[float, int] = {}

    def train(settings: Small, seed: int, _dataset: object, folder: Path, *_: object, **__: object) -> bool:
        epochs.setdefault(settings.rate, settings.epochs)
        folder.mkdir(parents=True)
        fast = settings.rate == 0.1
        rows = [{"step": e, "epoch": e, "train_loss": 1.0, "train_acc": 90.0 * (fast and e == 7)} for e in range(1, 8)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return True

    monkeypatch.setattr(small, "train", train)
    measure = epochs_until(25)
    arm = Arm("relu", replace(TINY, stages=(Stage(60),), stop_at=25), rates=(0.05, 0.1, 0.2))
    tested = experiment(arm, replace(arm, name="again"), measures=(measure,), choose=measure)
    run(replace(tested, rule=(replace(tested.rule[0], limit=60),)), tmp_path / "x", seeds=1)
    assert epochs == {0.05: 60, 0.1: 60, 0.2: 7}


def test_a_rate_cannot_be_chosen_on_the_test_images(tmp_path: Path) -> None:
    arm = Arm("relu", TINY, rates=(0.01, 0.02))
    with pytest.raises(ValueError, match="chosen on the training rows alone"):
        run(experiment(arm, TANH, choose=TEST_ERROR), tmp_path / "x", seeds=1)


def test_an_arm_may_judge_the_networks_of_another(tmp_path: Path) -> None:
    cut = Arm("centre", replace(TINY, network="13pct", crop=24))
    record = run(
        experiment(cut, Arm("ten views", of="centre", views="ten-crop"), measures=(TEST_ERROR,)),
        tmp_path / "x",
        seeds=1,
    )
    assert not (tmp_path / "x" / "ten-views" / "seed-0" / "config.json").exists()
    assert record["arms"][1]["settings"]["views"] == "ten-crop"
    assert record["arms"][1]["settings"]["network"] == "13pct"


def test_runs_of_the_large_network(tiny_network: None, tmp_path: Path) -> None:
    grey = np.random.RandomState(0).randint(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    for i, pixels in enumerate(grey):
        place = tmp_path / "images" / ("train" if i < 20 else "val") / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    recipe = classic(images=10, batch_size=2, epochs=1, val_every=2, lr=0.001)
    first = training_loss("loss at the start", first=2)
    tested = experiment(
        Arm("raw", recipe), Arm("he", replace(recipe, init="he")), measures=(first, TEST_ERROR, OVERFITTING)
    )
    record = run(replace(tested, chart="losses"), tmp_path / "x", str(tmp_path / "images"), seeds=3)
    assert (record["data"]["spec"], record["data"]["train"], record["data"]["test"]) == ("FOLDER", 20, 4)
    assert str(tmp_path) not in json.dumps(record)
    assert record["reason"].startswith("he − raw, loss at the start: ")
    for arm in record["arms"]:
        assert arm["settings"]["images"] == 10
        assert not {"data", "data_dir", "seed", "device", "tracker"} & arm["settings"].keys()
        assert [row[0] for row in arm["curves"][0]] == [0.4, 0.8, 1.0]
        assert 0 < arm["also"][TEST_ERROR.name][0] <= 100


def test_the_sentence_says_what_was_left_out(tmp_path: Path) -> None:
    tested = experiment(replace(RELU, short={"images": 32}), TANH)
    short = run(tested, tmp_path / "short", seeds=1)
    full = run(tested, tmp_path / "full", seeds=1, full=True)
    assert "tiny." in short["reason"]
    assert "as the paper did it" in full["reason"]
    assert (short["arms"][0]["settings"]["images"], full["arms"][0]["settings"]["images"]) == (32, 64)
    assert "--full" in full["command"]


@pytest.mark.parametrize("kind", ["small", "recipe"])
def test_a_signal_ends_it_with_its_number_and_no_further_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []

    def small_train(_s: Small, _seed: int, _data: object, folder: Path, _device: object, **more: Any) -> bool:
        begun.append(folder)
        os.kill(os.getpid(), signal.SIGTERM)
        return more["stopped"]() is None

    def train_run(_recipe: object, *, out: Path, **_: object) -> SimpleNamespace:  # which catches signals itself
        begun.append(out)
        return SimpleNamespace(stopped_by=signal.SIGTERM)

    monkeypatch.setattr(small, "train", small_train)
    monkeypatch.setattr(conduct.train, "run", train_run)
    arms = (RELU, TANH) if kind == "small" else (Arm("a", classic()), Arm("b", classic(lr=0.1)))
    done = conduct.conduct(experiment(*arms), data="digits", out=tmp_path / "x", device="cpu", say=lambda _: None)
    assert (done.stopped_by, done.record, len(begun)) == (signal.SIGTERM, None, 1)


# --- one of one's own, and killed at random ---------------------------------------------------------------------------

MINE = """
from dataclasses import replace
from alexnet.reproduce.catalogue import figure_1
from alexnet.reproduce.experiment import Stage

# figure 1, tiny: one network, 64 images, three epochs
arms = [replace(arm, short={"images": 64, "stages": (Stage(3),), "stop_at": 60.0}, rates=arm.rates[1:])
        for arm in figure_1.arms if arm.name.startswith("B, today")]
rule = [each for each in figure_1.rule if each.better.startswith("B, today")]
EXPERIMENT = replace(figure_1, arms=tuple(arms), rule=tuple(rule))
"""


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    arms = [{name: value for name, value in arm.items() if name != "images_per_sec"} for arm in record["arms"]]
    return {name: value for name, value in record.items() if name not in ("seconds", "date", "said")} | {"arms": arms}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_killed_at_random_and_resumed_figure_1_gives_the_same_record(how: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    whole = run(catalogue.find(str(file)), tmp_path / "whole", seeds=2)
    command = ["reproduce", str(file), "--data", "digits", "--seeds", "2"]
    command += ["--out", str(tmp_path / "cut"), "--device", "cpu", "--quiet"]
    started, wanted = Command(command, tmp_path / "output"), random.randint(1, 3)  # of more than six runs
    while started.process.is_alive() and len(list((tmp_path / "cut").rglob("result.json"))) < wanted:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    started.send(how)
    code, said = started.end()
    assert code == (-9 if how == signal.SIGKILL else 143)
    assert not (tmp_path / "cut" / "record.json").exists()
    if how == signal.SIGTERM:
        assert "stopped by SIGTERM; to go on:" in said
        assert f"reproduce {file} --resume --out {tmp_path / 'cut'} --data digits --seeds 2" in said
    cut = run(catalogue.find(str(file)), tmp_path / "cut", seeds=2, resume=True)
    assert without_times(cut) == without_times(whole)
    assert (tmp_path / "whole" / "figure-1.png").read_bytes() == (tmp_path / "cut" / "figure-1.png").read_bytes()


def test_the_experiment_in_contributing_works(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?EXPERIMENT = .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(code[code.index("EXPERIMENT = ") :].splitlines()) <= 10
    (tmp_path / "mine.py").write_text(code)
    mine = catalogue.find(str(tmp_path / "mine.py"))
    tiny = {"images": 64, "stages": (Stage(1),)}
    record = run(replace(mine, arms=tuple(replace(arm, short=tiny) for arm in mine.arms)), tmp_path / "x", seeds=1)
    assert record["experiment"] == mine.name


def test_a_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?EXPERIMENT = .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    own = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass X:\n    y: int\n"
    (tmp_path / "mine.py").write_text(own + code)
    assert catalogue.find(str(tmp_path / "mine.py")).file == "mine.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("X = 1", "defines no EXPERIMENT"),
    ],
)
def test_a_file_without_an_experiment(text: str | None, message: str, tmp_path: Path) -> None:
    if text:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        catalogue.find(str(tmp_path / "mine.py"))


def test_a_rule_must_fit_its_experiment() -> None:
    with pytest.raises(ValueError, match="its rule compares gelu"):
        replace(experiment(RELU, TANH), rule=(Comparison("gelu", "tanh", END.name, 1, ""),))
    with pytest.raises(ValueError, match="its rule wants speed"):
        replace(experiment(RELU, TANH), rule=(Comparison("relu", "tanh", "speed", 1, ""),))
    with pytest.raises(ValueError, match="nothing chooses among them"):
        experiment(replace(RELU, rates=(1.0,)), TANH)
    with pytest.raises(ValueError, match="needs a run of its own or the name of an arm"):
        experiment(RELU, Arm("x", of="y"))
