"""Run folders as `alexnet train` leaves them, written in a moment."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from alexnet import recipes
from alexnet.recipes import Runtime

DATA = {
    "spec": "digits", "name": "digits", "fingerprint": "0123456789abcdef",
    "train": 1438, "val": 359, "val_split": "val", "test": 0,
}  # fmt: skip
# 45 steps an epoch, 315 in all.
PINNED: dict[str, Any] = {"batch_size": 32, "lr": 0.01, "epochs": 7, "val_every": 45}
PART = {
    "started": "2026-11-24T10:00:00+0000",
    "hardware": {"device": "cpu", "cpu": "Some CPU", "cores": 2},
    "versions": {"alexnet": "0.2.0", "python": "3.11.7", "torch": "2.15.0"},
    "commit": "abcdef012345",
}


def rows(steps: int, accuracy: float, **changes: Any) -> list[dict[str, Any]]:
    """A row each 45 steps; the last one has `accuracy`, the one before 5 points more."""
    marks = [*range(45, steps, 45), steps]
    found = []
    for place, step in enumerate(marks):
        left = len(marks) - 1 - place
        value = accuracy + (5.0 if left == 1 else -float(left))
        row = {
            "step": step, "epoch": step / 45, "train_loss": 1.0 + 0.2 * left, "train_acc": 60.0 - left,
            "grad_norm": 3.0, "val_loss": 0.9 + 0.1 * left, "val_acc": value, "lr": 0.01, "images_per_sec": 144.0,
            "data_wait_pct": 2.0, "seconds": 10.0, "wait_seconds": 0.2, "val_seconds": 1.5, "save_seconds": 0.25,
            "epoch_val_acc": value,
        }  # fmt: skip
        found.append(row | changes)
    return found


def make_run(
    folder: Path,
    accuracy: float = 70.0,
    *,
    steps: int = 315,
    max_steps: int | None = None,
    recipe: dict[str, Any] | None = None,
    logged: list[dict[str, Any]] | None = None,
    **config: Any,
) -> Path:
    """A run of `quickstart`, by default complete; `recipe`, `logged` and `config` change what its files say."""
    settings = dataclasses.asdict(recipes.quickstart(**PINNED)) | (recipe or {})
    document = {
        "recipe": settings,
        "runtime": dataclasses.asdict(Runtime(tracker="none", max_steps=max_steps)),
        "seed": settings["seed"],
        "data": DATA,
        "classes": [str(digit) for digit in range(10)],
        "total_steps": 315,
        "steps_per_epoch": 45,
        "device": "cpu",
        "precision": "fp32",
        "loader": "resident",
        "compiled": False,
        "lrn": "C++",
        "processes": 1,
        **PART,
        "parts": [{"step": 0, **PART}],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(document | config), encoding="utf-8")
    lines = rows(steps, accuracy) if logged is None else logged
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return folder
