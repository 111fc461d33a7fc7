"""The comparison: its arithmetic, and both sides once with a narrow network."""

import statistics
from pathlib import Path

import pytest
import torch

import compare
from alexnet import recipes, train

MEASURED = {
    "train_step": {"ours": [2.0, 2.2, 2.1], "baseline": [8.0, 8.4, 8.2]},
    "validation": {"ours": [50.0, 52.0, 51.0], "baseline": [400.0, 420.0, 410.0]},
    "peak_memory": {"ours": [2.0], "baseline": [3.0]},
    "data_path": {"ours": [8000.0] * 3, "baseline": [1000.0] * 3},
    "lrn": {"ours": [40.0] * 3, "baseline": [1600.0] * 3},
    "lrn_float32": {"ours": [50.0] * 3, "baseline": [1600.0] * 3},
    "inference": {"ours": [140.0] * 3, "baseline": [40.0] * 3},
    "matrix_rate": {"ours": [0.4] * 3, "baseline": []},
    "copy_rate": {"ours": [40.0] * 3, "baseline": []},
}


def test_a_ratio_above_one_means_that_this_project_is_better():
    rows = {row["name"]: row for row in compare.to_rows(MEASURED, [])}
    assert list(rows) == list(compare.UNITS)
    assert {name: rows[name]["ratio"] for name in ("train_step", "data_path", "lrn", "lrn_float32", "inference")} == {
        "train_step": 3.9, "data_path": 8.0, "lrn": 40.0, "lrn_float32": 32.0, "inference": 3.5
    }  # fmt: skip
    job, one_pass = rows["classic_job"], rows["classic_job_one_pass"]
    assert job["ours"] == one_pass["ours"] == pytest.approx(5083 * 2.1 + 63 * 51)
    assert job["baseline"] == pytest.approx(5083 * 8.2 + (50 + 13 / 2) * 410)  # two passes at every 100 steps
    assert one_pass["baseline"] == pytest.approx(5083 * 8.2 + 63 * 205)
    assert rows["matrix_rate_share"]["ours"] == pytest.approx(842e9 / 2.1 / 0.4e12 * 100, rel=1e-3)
    for row in rows.values():
        assert row["ours"] == pytest.approx(statistics.median(row["ours_all"]), abs=1e-3)
    timed = {row["name"]: row for row in compare.to_rows(MEASURED, [99.0, 70.0, 71.0, 72.0])}
    assert timed["classic_job"]["ours"] == 71  # the first one compiles


def test_a_step_is_842_billion_operations():
    assert compare.training_flop() * 128 == pytest.approx(842e9, rel=1e-3)


@pytest.mark.slow
def test_a_side_that_dies_ends_the_waiting(tmp_path):
    with pytest.raises((EOFError, OSError)):
        compare.measure("no-such-data", torch.device("cpu"), 1, [], str(tmp_path))


class Pipe:
    """Collects what a side sends."""

    def __init__(self):
        self.sent = []

    def recv(self):
        return "go"

    def send(self, measured):
        self.sent.append(measured)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "baseline"])
def test_each_side_has_each_measure(side, tmp_path, monkeypatch):
    for name, value in (("BATCH", 8), ("LRN_SHAPE", (2, 96, 9, 9))):
        monkeypatch.setattr(compare, name, value)
    narrow = {"width_mult": 1 / 16, "batch_size": 8}
    monkeypatch.setattr(compare.recipes, "classic", lambda **changes: recipes.Recipe(**narrow | changes))
    files = [tmp_path / "x.png"] * 4
    compare.load("synthetic").val.image(0).save(files[0])
    work = compare.measure_ours if side == "ours" else compare.measure_baseline
    work(pipe := Pipe(), "synthetic", torch.device("cpu"), files, 2, str(tmp_path))
    assert len(pipe.sent) == 4
    names = {name for measured in pipe.sent for name in measured}
    rates = {"copy_rate", "matrix_rate"} if side == "ours" else set()
    assert names == rates | (compare.UNITS.keys() - {"matrix_rate_share", "classic_job", "classic_job_one_pass"})
    assert all(value > 0 for measured in pipe.sent for value in measured.values())


@pytest.mark.parametrize(("accuracies", "ratio"), [((57.0, 58.0, 59.0), 171.3), ((57.0, 56.3, 59.0), None)])
def test_minutes_to_an_accuracy_need_three_seeds_of_three(tmp_path, monkeypatch, accuracies, ratio):
    row = dict.fromkeys(("step", "train_loss", "train_acc", "val_acc", "test_loss"), 1.0)
    row |= {"seconds": 50.0, "val_seconds": 10.0}

    def run(recipe, out, runtime):
        return train.Result(Path(out), row | {"test_acc": accuracies[recipe.seed]}, {})

    class Baseline:
        def __init__(self, *_): ...

        def train_step(self):
            return 2.0

        validation = train_step

    monkeypatch.setattr(compare.train, "run", run)
    monkeypatch.setattr(compare, "Baseline", Baseline)
    for _ in range(2):  # the second call measures nothing again
        compare.time_to(56.3, "digits", torch.device("cpu"), tmp_path / "time.json")
        record = compare.GrowingRecord(tmp_path / "time.json", {}, ()).record
        assert [run["test_acc"] for run in record["runs"]] == list(accuracies)
        assert (record["seconds"], record.get("ratio")) == (60.0, ratio)  # (5083 + 50 + 6.5) · 2 / 60
