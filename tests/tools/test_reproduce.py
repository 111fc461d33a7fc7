"""Experiments from their first run to their record: catalogue, verdicts, sweeps, resuming, and a user's own file."""

import json
import math
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet import train
from alexnet.cli import main
from alexnet.data import datasets
from alexnet.errors import FieldError
from alexnet.recipes import Recipe, classic
from alexnet.tools import reproduce
from alexnet.tools.reproduce import EXPERIMENTS, OVERFITTING, TEST_ERROR, Arm, Comparison, Experiment, Measure
from alexnet.tools.reproduce.experiments import FinishedRun, Small, Stage, epochs_until, training_loss
from alexnet.tools.reproduce.record import compare, draw, format_record, judge
from alexnet.tools.reproduce.run import SWEEP_SEED, run_experiment
from alexnet.tools.reproduce.small_networks import check
from forked import Command
from runs import make_images

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("figure-1", "lrn", "overlap", "dropout", "ten-crop", "colour", "biases", "depth")
TINY = Small("19pct", init="today", crop=32, decay=0, rate=0.02, images=64, stages=(Stage(2),))
RELU, TANH = Arm("relu", TINY), Arm("tanh", replace(TINY, neuron="tanh"))
DIGITS = datasets.load("digits")
END = Measure("last training loss", lambda run: run.rows[-1]["train_loss"])


def experiment(*arms, measures=(END,), **more):
    rule = (Comparison(arms[0].name, arms[-1].name, measures[0].name, least=0.01, paper="none"),)
    facts = {"name": "tiny", "claim": "a claim", "source": "here", "short": "tiny", "cost": "seconds"}
    return Experiment(arms=arms, measures=measures, rule=rule, **(facts | more))


def run(tested, out, data="digits", **options):
    done = run_experiment(tested, **{"data": data, "out": out, "device": "cpu", "quiet": True, "say": len} | options)
    assert done.record is not None
    return done.record


# --- the catalogue


def test_the_eight_experiments_are_complete_and_valid():
    assert tuple(EXPERIMENTS) == NAMES
    digits = datasets.load("digits")
    for each in EXPERIMENTS.values():
        assert all((each.claim, each.source, each.cost, each.short))
        assert each.seeds >= 3
        assert any(comparison.decides for comparison in each.rule)
        assert all(comparison.least > comparison.ratio for comparison in each.rule)
        for settings, full in ((arm.settings(full=full), full) for arm in each.arms for full in (False, True)):
            if isinstance(settings, Small):
                check(settings, digits)
            else:
                assert full == (settings.width_mult == 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_to_its_record(name, tmp_path):
    def tiny(arm):
        if isinstance(arm.run, Recipe):
            short = {"images": 4, "batch_size": 2, "epochs": 1, "val_every": 1, "lr": 1e-4, "width_mult": 1 / 16}
            return replace(arm, short=short, max_steps=None)
        return replace(arm, short={"images": 8, "stages": (Stage(1),)}, rates=())

    tested = replace(EXPERIMENTS[name], arms=tuple(map(tiny, EXPERIMENTS[name].arms)))
    record = run(tested, tmp_path / "x", str(make_images(tmp_path / "images")), seeds=1)
    assert (record["experiment"], record["verdict"]) == (name, "too few runs")
    assert [arm["name"] for arm in record["arms"]] == [arm.name for arm in tested.arms]
    for arm in record["arms"]:
        assert len(arm["values"]) == 1
        assert arm["also"].keys() == {measure.name for measure in tested.measures[1:]}
    assert (tmp_path / "x" / f"{name}.png").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("reproduce-*.json")), ids=lambda path: path.stem)
def test_published_records_can_still_be_drawn_and_told(path, tmp_path):
    record = json.loads(path.read_text())
    draw(record, tmp_path / "x.png")
    assert record["verdict"] in format_record(record, tmp_path)


def test_the_list(capsys):
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert main(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["experiment"] for entry in listed] == list(NAMES)
    for entry in listed:
        assert entry.keys() == {"experiment", "claim", "source", "arms", "seeds", "cost"}
        assert entry["experiment"] in text


def test_parts_must_fit_together():
    for names in (("rate 1e-3", "rate 1e+3"), ("α", "β"), ("x", "x")):
        with pytest.raises(ValueError, match="folders"):
            experiment(*(Arm(name, TINY) for name in names))
    for wrong in (Comparison("gelu", "tanh", END.name, 1, ""), Comparison("relu", "tanh", "speed", 1, "")):
        with pytest.raises(ValueError, match=r"gelu|speed"):
            replace(experiment(RELU, TANH), rule=(wrong,))


# --- verdicts

ERROR = Comparison("with", "without", "error", least=1, paper="2 points")
SPEED = Comparison("relu", "tanh", "epochs", least=3, paper="six times", ratio=True, limit=60)

YES, LITTLE, NO, UNCLEAR = (2.0, 2.2, 1.8), (0.5, 0.6, 0.4), (0.1, -0.1, 0.0), (3.0, -1.0, 2.0)

Column = list[float | None]


def errors(*differences):
    return {"with": {"error": [20.0] * len(differences)}, "without": {"error": [20 + d for d in differences]}}


def epochs(relu, tanh):
    return {"relu": {"epochs": relu}, "tanh": {"epochs": tanh}}


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        (YES, "reproduced"),
        ((1.0, 1.0, 1.0), "reproduced"),  # least itself
        (LITTLE, "partly"),
        (NO, "not reproduced"),
        ((-2.0, -2.2, -1.8), "not reproduced"),
        ((0.0, 0.0, 0.0), "not reproduced"),
        (UNCLEAR, "too few runs"),  # contains both no effect and the claimed one
        ((2.0, 2.2), "too few runs"),
        ((), "too few runs"),
    ],
)
def test_each_verdict(differences, word):
    assert compare(ERROR, errors(*differences)).word == word


def test_the_interval_is_students_and_a_ratio_is_one_of_logarithms():
    found, half = compare(ERROR, errors(1.0, 2.0, 3.0)), 4.302652729911275 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))
    ratio = compare(SPEED, epochs([2, 4, 8], [12, 24, 48]))
    assert (ratio.word, ratio.mean) == ("reproduced", pytest.approx(6))
    assert compare(SPEED, epochs([2, 4, 8], [4, 8.1, 16])).word == "partly"
    assert compare(SPEED, epochs([0.0, 1, 1], [2, 2, 2])).word == "too few runs"
    assert "+2.00 (95%: +1.50 to +2.50); the paper: 2 points" in compare(ERROR, errors(2.0, 2.2, 1.8)).sentence


def test_what_was_not_reached_counts_as_the_limit():
    found = compare(SPEED, epochs([6, 6.1, 6], [None, None, None]))
    assert (found.word, found.mean) == ("reproduced", pytest.approx(10, rel=0.02))
    assert "at least" in found.sentence
    assert "at most" in compare(SPEED, epochs([None, 60, 60], [30, 30, 31])).sentence
    assert "roughly" in compare(SPEED, epochs([None, 6, 6], [30, None, 30])).sentence
    assert compare(SPEED, epochs([None] * 3, [None] * 3)).word == "too few runs"
    # a seed without any value is left out, and one without a limit
    assert compare(SPEED, epochs([None, 6, 6.1, 6], [None, 30, 31, 30])) == compare(
        SPEED, epochs([6, 6.1, 6], [30, 31, 30])
    )
    values = errors(1, 2, 3, 4)
    values["without"]["error"][0] = None
    assert compare(ERROR, values) == compare(ERROR, errors(2, 3, 4))


def test_several_comparisons():
    def word(*differences, decide=2):
        rule, values = [], {}
        for i, each in enumerate(differences):
            rule.append(replace(ERROR, better=f"a{i}", worse=f"b{i}", decides=i < decide))
            own = errors(*each)
            values |= {f"a{i}": own["with"], f"b{i}": own["without"]}
        return judge(rule, values)[0]

    assert word(YES, YES) == word(YES, NO, decide=1) == "reproduced"
    assert word(NO, NO) == "not reproduced"
    assert word(UNCLEAR, UNCLEAR) == word(NO, UNCLEAR) == "too few runs"
    assert word(YES, NO) == word(LITTLE, NO) == word(YES, UNCLEAR) == word(LITTLE, YES) == "partly"


# --- records


def test_a_record_has_what_was_promised(tmp_path):
    said = []
    tested = experiment(RELU, TANH, measures=(END, TEST_ERROR), chart="errors")
    record = run(tested, tmp_path / "x", seeds=3, say=said.append)
    old = json.loads((ROOT / "results" / "reproduce-figure-1.json").read_text())
    assert record.keys() == old.keys() - {"notes"}
    assert record["arms"][0].keys() == old["arms"][0].keys() - {"sweep"}
    assert record["arms"][0]["settings"].keys() == old["arms"][0]["settings"].keys()
    for arm in record["arms"]:
        assert arm["seeds"] == [0, 1, 2]
        assert arm["mean"] == pytest.approx(sum(arm["values"]) / 3)
        assert len(arm["also"][TEST_ERROR.name]) == 3
        assert [row[0] for row in arm["curves"][0]] == [1, 2]
    assert (record["verdict"], record["reason"][:6]) == ("too few runs", "Digits")
    assert json.loads((tmp_path / "x" / "record.json").read_text()) == record
    assert str(tmp_path) not in json.dumps(record)
    for arm_name in ("relu", "tanh"):
        files = {file.name for file in (tmp_path / "x" / arm_name / "seed-2").iterdir()}
        assert {"config.json", "metrics.jsonl", "last.ckpt", "result.json"} < files
    assert (said[0], said[-1]) == ("tiny: relu, seed-0; run 1 of 6", "tiny: tanh, seed-2; run 6 of 6")


def test_recipes_arms_of_other_arms_and_short_forms(tmp_path):
    images = str(make_images(tmp_path / "images"))
    recipe = classic(images=10, batch_size=2, epochs=1, val_every=2, lr=0.001, width_mult=1 / 16)
    first = training_loss("loss at the start", first=2)
    raw = Arm("raw", recipe, short={"lr": 0.002})
    tested = experiment(
        raw, Arm("few steps", replace(recipe, init="he"), max_steps=4),
        replace(raw, name="ten views", tta="ten-crop"), measures=(first, TEST_ERROR, OVERFITTING), chart="losses",
    )  # fmt: skip
    record = run(tested, tmp_path / "short", images, seeds=3)
    full = run(tested, tmp_path / "full", images, seeds=3, full=True)
    assert [(each["command"].count("--full"), "tiny." in each["reason"]) for each in (record, full)] == [(0, 1), (1, 0)]
    raw, few, views = record["arms"]
    assert (record["data"]["spec"], record["data"]["train"], record["data"]["test"]) == ("FOLDER", 20, 6)
    assert (raw["settings"]["lr"], full["arms"][0]["settings"]["lr"]) == (0.002, 0.001)
    assert not {"data", "data_dir", "seed", "device", "tracker"} & raw["settings"].keys()
    assert ([row[0] for row in raw["curves"][0]], [row[0] for row in few["curves"][0]]) == ([0.4, 0.8, 1], [0.4, 0.8])
    assert (few["settings"]["max_steps"], views["settings"]["views"]) == (4, "ten-crop")
    assert raw["also"][OVERFITTING.name] != views["also"][OVERFITTING.name]
    assert not (tmp_path / "short" / "ten-views" / "seed-0" / "config.json").exists()


def test_the_test_images_are_those_of_the_test_split(tmp_path):
    images = make_images(tmp_path / "images")
    shutil.copytree(images / "val", images / "test")
    (images / "test" / "dark" / "0.png").unlink()
    recipe = classic(images=10, batch_size=5, epochs=1, width_mult=1 / 16)
    tested = experiment(Arm("a", recipe), Arm("b", replace(recipe, lr=0.02)), measures=(TEST_ERROR,))
    record = run(tested, tmp_path / "out", str(images), seeds=3)
    assert record["data"]["test"] == 5
    assert all(value * 5 % 100 == 0 for value in record["arms"][0]["values"])


def test_runs_that_diverge_or_do_not_reach_an_error_have_no_values(tmp_path):
    lost = Arm("lost", replace(TINY, rate=1e30))
    tested = experiment(RELU, lost, measures=(epochs_until(0), TEST_ERROR, OVERFITTING), file="mine.py")
    tested = replace(tested, rule=(replace(tested.rule[0], ratio=True, limit="end"),))
    record = run(tested, tmp_path / "x", seeds=3)
    reached, diverged = record["arms"]
    assert reached["values"] == diverged["values"] == diverged["also"][OVERFITTING.name] == [None] * 3
    assert None not in reached["also"][OVERFITTING.name]
    assert (record["verdict"], record["findings"][0]["mean"]) == ("too few runs", None)
    assert record["command"] == "alexnet reproduce mine.py --data digits"
    json.loads((tmp_path / "x" / "record.json").read_text(), parse_constant=pytest.fail)


def test_a_run_that_diverged_late_has_no_value():
    rows = [{"step": 1, "epoch": 1.0, "train_loss": 1.0}]
    assert training_loss("loss").value(FinishedRun(rows, None)) == 1.0
    assert training_loss("loss").value(FinishedRun(rows, None, diverged=True)) is None


# --- sweeps


def test_a_sweep_is_a_race(tmp_path, monkeypatch):
    """Rates up to 0.4 are faster and faster; none sees a seed of the comparison, or runs longer than the best."""
    seen = []

    def fake(recipe, _data, folder, **_):
        seen.append((recipe.lr, recipe.seed, recipe.epochs))
        folder.mkdir(parents=True)
        needed = 3 + round(20 * abs(recipe.lr - 0.4))
        rows = [
            {"step": e, "epoch": e, "train_loss": 1.0, "train_acc": 90.0 * (e >= needed)}
            for e in range(1, recipe.epochs + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(train, "run", fake)
    arm = Arm("relu", replace(TINY, stages=(Stage(60),), stop_at=25), rates=(0.1, 0.05, 0.4, 0.8))
    record = run(experiment(arm, TANH, measures=(epochs_until(25),)), tmp_path / "x", seeds=2)
    assert seen[:4] == [(0.1, SWEEP_SEED, 60), (0.05, SWEEP_SEED, 9), (0.4, SWEEP_SEED, 9), (0.8, SWEEP_SEED, 3)]
    assert seen[4:] == [(0.4, 0, 60), (0.02, 0, 2), (0.4, 1, 60), (0.02, 1, 2)]
    assert [point["rate"] for point in record["arms"][0]["sweep"]] == [0.05, 0.1, 0.4, 0.8]
    assert record["arms"][0]["settings"]["rate"] == 0.4


def test_a_rate_cannot_be_chosen_on_the_test_images(tmp_path):
    arm = Arm("relu", TINY, rates=(0.01, 0.02))
    with pytest.raises(ValueError, match="training rows"):
        run(experiment(arm, TANH, measures=(TEST_ERROR,)), tmp_path / "x", seeds=1)


# --- resuming


def test_finished_runs_are_never_repeated(tmp_path):
    tested, said = experiment(RELU, TANH), list[str]()
    before = run(tested, tmp_path / "x", seeds=1)
    assert run(tested, tmp_path / "x", seeds=1, resume=True, say=said.append) == before
    assert said == []
    run(tested, tmp_path / "x", seeds=2, resume=True, say=said.append)  # more seeds of the same
    assert [line[:20] for line in said] == ["tiny: relu, seed-1; ", "tiny: tanh, seed-1; "]


def test_data_of_the_hub_are_named_and_older_plans_of_them_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *_: replace(DIGITS, spec="hf:someone/digits"))
    tested, plan = experiment(RELU, TANH), tmp_path / "x" / "plan.json"
    record = run(tested, tmp_path / "x", seeds=1)
    assert record["data"]["spec"] == "hf:someone/digits"
    assert "--data hf:someone/digits" in record["command"]
    plan.write_text(plan.read_text().replace("hf:someone/digits", "FOLDER"))
    assert run(tested, tmp_path / "x", seeds=1, resume=True) == record


def test_another_experiment_is_not_resumed(tmp_path):
    tested, out = experiment(RELU, TANH), tmp_path / "x"
    run(tested, out, seeds=1)
    with pytest.raises(ValueError, match="already exists"):
        run(tested, out, seeds=1)
    for name, changed, options in (
        ("arms", experiment(RELU, replace(TANH, run=replace(TINY, rate=0.5))), {}),
        ("full", tested, {"full": True}),
        ("measures", experiment(RELU, TANH, measures=(END, OVERFITTING)), {}),
        ("rule", replace(tested, rule=(replace(tested.rule[0], least=1.0),)), {}),
    ):
        with pytest.raises(ValueError, match=f"other {name}"):
            run(changed, out, seeds=1, resume=True, **options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "last.ckpt").touch()
    with pytest.raises(ValueError, match="holds no experiment"):
        run(tested, tmp_path / "other", seeds=1, resume=True)
    with pytest.raises(FieldError) as error:
        run(experiment(RELU, Arm("x", replace(TINY, network="19pc"))), tmp_path / "new", seeds=1)
    assert error.value.field == "network"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arms", [(RELU, TANH), (Arm("a", classic(width_mult=1 / 16)), Arm("b", classic(lr=0.1)))])
def test_a_signal_ends_it_with_its_number(arms, tmp_path):
    said = []

    def say(line):
        said.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    done = run_experiment(experiment(*arms), data="digits", out=tmp_path / "x", device="cpu", quiet=True, say=say)
    assert (done.stopped_by, done.record, len(said)) == (signal.SIGTERM, None, 1)
    assert not list((tmp_path / "x").rglob("result.json"))


MINE = """
from dataclasses import replace
from alexnet.tools.reproduce import EXPERIMENTS, Stage

# figure 1, tiny: one network, 64 images, three epochs
figure_1 = EXPERIMENTS["figure-1"]
arms = [replace(arm, short={"images": 64, "stages": (Stage(3),), "stop_at": 60.0}, rates=arm.rates[:2])
        for arm in figure_1.arms if arm.name.startswith("B, today")]
rule = [each for each in figure_1.rule if each.better.startswith("B, today")]
EXPERIMENT = replace(figure_1, arms=tuple(arms), rule=tuple(rule))
"""


@pytest.mark.timeout(600)
def test_killed_at_random_and_resumed_it_gives_the_same_record(tmp_path):
    def without_times(record):
        arms = [arm | {"images_per_sec": 0} for arm in record["arms"]]
        return record | {"seconds": 0, "date": "", "arms": arms}

    file, cut = tmp_path / "mine.py", tmp_path / "cut"
    file.write_text(MINE)
    whole = run(reproduce.find(str(file)), tmp_path / "whole", seeds=1)
    words = ["reproduce", str(file), "--data", "digits", "--seeds", "1", "--out", str(cut), "--device", "cpu"]
    started, wanted = Command([*words, "--quiet"], tmp_path / "output"), random.randint(1, 3)  # of six runs
    while started.process.is_alive() and len(list(cut.rglob("result.json"))) < wanted:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    started.send(signal.SIGKILL)
    code, said = started.end()
    assert code == -9, said
    assert not (cut / "record.json").exists()
    assert without_times(run(reproduce.find(str(file)), cut, seeds=1, resume=True)) == without_times(whole)
    assert (tmp_path / "whole" / "figure-1.png").read_bytes() == (cut / "figure-1.png").read_bytes()


def test_the_experiment_in_contributing_works(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "EXPERIMENT = " in block]
    own = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass X:\n    y: int\n"
    (tmp_path / "mine.py").write_text(own + code)  # a dataclass needs its module
    mine = reproduce.find(str(tmp_path / "mine.py"))
    assert mine.file == "mine.py"
    tiny = {"images": 64, "stages": (Stage(1),)}
    record = run(replace(mine, arms=tuple(replace(arm, short=tiny) for arm in mine.arms)), tmp_path / "x", seeds=1)
    assert record["experiment"] == mine.name
    (tmp_path / "mine.py").write_text("X = 1")
    with pytest.raises(ValueError, match=r"mine\.py"):
        reproduce.find(str(tmp_path / "mine.py"))
