"""The comparison with the usual way: its arithmetic, and each side's measures once, with few maps."""

import statistics
from pathlib import Path

import pytest
import torch
from PIL import Image

import compare
import sides

FIGURES = {
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


def test_a_ratio_above_one_means_that_this_project_is_better() -> None:
    rows = {row["name"]: row for row in compare.to_rows(FIGURES, [])}
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
    timed = {row["name"]: row for row in compare.to_rows(FIGURES, [99.0, 70.0, 71.0, 72.0])}
    assert timed["classic_job"]["ours"] == 71  # the first one compiles


def test_a_step_is_842_billion_operations() -> None:
    assert compare.training_flop() * 128 == pytest.approx(842e9, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["Baseline", "Ours"])
def test_each_side_has_each_measure(
    tiny_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str
) -> None:
    monkeypatch.setattr(sides, "BATCH", 8)
    monkeypatch.setattr(sides, "LRN_SHAPE", (2, 96, 9, 9))
    Image.new("RGB", (256, 256)).save(tmp_path / "x.png")
    made = getattr(sides, side)("synthetic", torch.device("cpu"), [tmp_path / "x.png"] * 4)
    rates = ("matrix_rate", "copy_rate") if side == "Ours" else ()
    assert all(getattr(made, name)() > 0 for name in (*compare.MEASURES, *rates))


def test_a_side_that_dies_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EOFError):
        compare.measure("no-such-data", torch.device("cpu"), 1, [])
