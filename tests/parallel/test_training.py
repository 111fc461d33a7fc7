"""Training as two columns: the same run as in one process, which may go on with one process or two; and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import recipes, train
from alexnet.weights.checkpoint import load_checkpoint, load_model, load_weights
from forked import several

Run = Callable[..., train.Result]


@pytest.fixture(scope="module")
def run(tiny_network: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, random = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    for split, count in (("train", 10), ("val", 4)):
        for label in ("a", "b", "c"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")

    def run(out: Path, *, resume: bool = False, **changes: Any) -> train.Result:
        recipe = recipes.paper(
            data=str(folder), init="he", input_scale="imagenet", batch_size=8, val_every=2, epochs=3, holdout=6,
            ema=0.9, tracker="none", precision="fp32", device="cpu", **changes,
        )  # fmt: skip
        return train.run(recipe, out=out, resume=resume, quiet=True)

    return run


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_as_two_columns_and_again_as_one_network(run: Run, tmp_path: Path) -> None:
    """Steps 1 to 3 in this process, 4 to 7 as columns in two others, 8 and 9 here; beside it, all of them here."""
    run(tmp_path / "whole")
    out = tmp_path / "parts"
    run(out, max_steps=3)
    flags = ["train", "--resume", "--out", str(out), "--parallel", "columns", "--max-steps", "7"]
    columns = several(2, flags, tmp_path / "output")
    assert [column.end()[0] for column in columns] == [0, 0], columns[0].end()
    half_way = load_checkpoint(out / "last.ckpt")
    assert half_way["progress"]["step"] == 7
    assert load_model(out).num_classes == 3
    run(out, resume=True)

    expected, found = load_checkpoint(tmp_path / "whole" / "last.ckpt"), load_checkpoint(out / "last.ckpt")
    for part in ("model", "average"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-5, atol=1e-5)
    for index, entry in expected["optimizer"]["state"].items():
        one, two = entry["momentum_buffer"], found["optimizer"]["state"][index]["momentum_buffer"]
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5 * one.abs().max().item())
    assert torch.equal(found["random"]["cpu"], expected["random"]["cpu"])
    best, same_best = (load_weights(folder / "best.safetensors")[0] for folder in (tmp_path / "whole", out))
    for name, value in best.items():
        torch.testing.assert_close(same_best[name], value, rtol=1e-5, atol=1e-5)
    logged = {row["step"]: row for row in rows(out)}
    for row in rows(tmp_path / "whole"):
        for name in ("train_loss", "train_acc", "val_loss", "val_acc", "grad_norm", "test_loss"):
            if name in row:
                assert logged[row["step"]][name] == pytest.approx(row[name], rel=1e-5), (row["step"], name)
    parts = json.loads((out / "config.json").read_text())["parts"]
    assert [part["processes"] for part in parts] == [1, 2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--parallel columns: takes two processes, not one process"),
        ({"variant": "classic"}, "--parallel columns: variant classic has one tower"),
        ({"variant": "no-conv3"}, "--parallel columns: variant no-conv3 has one tower"),
        ({"compile": True}, "--compile True: allowed is no, at --parallel columns"),
    ],
)
def test_refusals_come_before_any_work(run: Run, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", parallel="columns", **changes)
    assert not (tmp_path / "run").exists()
