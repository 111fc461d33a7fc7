"""Training of the four-layer networks: it learns, ends where it should, and goes on as if nothing had happened."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet.data import datasets
from alexnet.data.splits import Dataset
from alexnet.reproduce.convnet import small
from alexnet.reproduce.experiment import Small, Stage
from alexnet.run.runfolder import read_config
from alexnet.run.tracking import read_rows
from alexnet.weights.checkpoint import LAST

CPU = torch.device("cpu")
TINY = Small("19pct", init="today", crop=32, decay=0, rate=0.02, images=200, stages=(Stage(3),))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


def trained(settings: Small, dataset: Dataset, folder: Path, seed: int = 0, **more: object) -> list[dict]:
    assert small.train(settings, seed, dataset, folder, CPU, quiet=True, **more)  # type: ignore[arg-type]
    return [{k: v for k, v in row.items() if k != "images_per_sec"} for row in read_rows(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["net"]


def test_a_run_learns_and_leaves_a_run_folder(digits: Dataset, tmp_path: Path) -> None:
    rows = trained(replace(TINY, stages=(Stage(6),)), digits, tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]  # 200 images: of each class its share
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    config = read_config(tmp_path)
    assert config["settings"]["network"] == "19pct"
    assert (config["seed"], config["data"]["name"], config["data"]["train"]) == (0, "digits", 1438)
    found = small.judge(tmp_path, TINY, digits, digits.val, "center", CPU)
    assert found["top1"] > 20


def test_the_seed_decides_everything(digits: Dataset, tmp_path: Path) -> None:
    first, again, other = (trained(TINY, digits, tmp_path / str(i), seed) for i, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first != other


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(TINY, digits, tmp_path / "whole")
    monkeypatch.setattr(small, "SAVE_EVERY", 0.0)
    for steps in (1, 2, 1, 1):  # of two an epoch: stopped in the middle, and where an epoch begins
        left = iter([None] * steps + [2])
        assert not small.train(TINY, 0, digits, tmp_path / "cut", CPU, quiet=True, stopped=lambda left=left: next(left))
    assert trained(TINY, digits, tmp_path / "cut") == whole
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / "whole").values(),
                                                 weights(tmp_path / "cut").values(), strict=True))  # fmt: skip


def test_a_finished_run_is_not_repeated(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(TINY, digits, tmp_path)
    monkeypatch.setattr(small, "_epoch", lambda *_: pytest.fail("trained again"))
    trained(TINY, digits, tmp_path)


def test_it_ends_at_the_training_error_asked_for(digits: Dataset, tmp_path: Path) -> None:
    rows = trained(replace(TINY, stages=(Stage(40),), stop_at=70), digits, tmp_path)
    errors = [100 - row["train_acc"] for row in rows]
    assert len(rows) < 40
    assert errors[-1] <= 70 < min(errors[:-1])


def test_it_ends_where_the_loss_is_lost(digits: Dataset, tmp_path: Path) -> None:
    rows = trained(replace(TINY, rate=1e30, stages=(Stage(9),)), digits, tmp_path)
    assert len(rows) < 9
    assert rows[-1]["train_loss"] is None


def test_stages_change_the_rate_of_the_weights_and_the_images(digits: Dataset, tmp_path: Path) -> None:
    stages = (Stage(1, part=0.5), Stage(1), Stage(1, rate=0.1))
    rows = trained(replace(TINY, images=None, stages=stages), digits, tmp_path)
    assert [row["step"] for row in rows] == [6, 18, 30]  # 719 and 1,438 images in batches of 128
    assert [row["lr"] for row in rows] == pytest.approx([0.02, 0.02, 0.002])
    rates = [g["lr"] for g in torch.load(tmp_path / LAST, weights_only=True)["optimizer"]["param_groups"]]
    assert rates == pytest.approx([0.002, 0.04] * 4)


def test_ten_views_are_averaged(digits: Dataset, tmp_path: Path) -> None:
    settings = replace(TINY, network="13pct", crop=24)
    trained(settings, digits, tmp_path)
    few = digits.val.subset(range(50))
    centre, ten = (small.judge(tmp_path, settings, digits, few, views, CPU) for views in ("center", "ten-crop"))
    assert centre != ten
