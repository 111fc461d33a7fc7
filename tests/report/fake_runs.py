"""Run folders as `alexnet train` leaves them, made in a moment."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from alexnet import recipes

DATA = {"spec": "digits", "name": "digits", "train": 1438, "val": 359, "val_split": "val", "test": 0}
# Of the recipe, what the tests count on: 45 steps an epoch, 315 in all.
PINNED = {"batch_size": 32, "lr": 0.01, "epochs": 7, "val_every": 45, "max_steps": 135}
VERSIONS = {"alexnet": "0.1.0", "python": "3.11.7", "torch": "2.15.0"}
HARDWARE = {"device": "cpu", "cpu": "Some CPU", "cores": 2}


def rows(steps: int, accuracy: float, every: int = 45) -> list[dict[str, Any]]:
    """A row each 45 steps, one epoch of digits; the last one has `accuracy`, the one before 5 points more."""
    marks = [*range(every, steps, every), steps]
    found = []
    for place, step in enumerate(marks):
        left = len(marks) - 1 - place
        value = accuracy + (5.0 if left == 1 else -float(left))
        found.append(
            {
                "step": step,
                "epoch": step / 45,
                "train_loss": 1.0 + 0.2 * left,
                "train_acc": 60.0 - left,
                "grad_norm": 3.0,
                "val_loss": 0.9 + 0.1 * left,
                "val_acc": value,
                "lr": 0.01,
                "images_per_sec": 144.0,
                "data_wait_pct": 2.0,
                "val_seconds": 1.5,
                "save_seconds": 0.25,
                "epoch_val_acc": value,
            }
        )
    return found


def make_run(
    folder: Path,
    accuracy: float = 70.0,
    *,
    steps: int = 135,
    recipe: dict[str, Any] | None = None,
    logged: list[dict[str, Any]] | None = None,
    **config: Any,
) -> Path:
    """A run of `quickstart` that ended by --max-steps 135; `recipe`, `config` and `logged` change what it says."""
    settings = dataclasses.asdict(recipes.quickstart(**PINNED)) | (recipe or {})
    part = {"started": "2026-11-24T10:00:00+0000", "hardware": HARDWARE, "versions": VERSIONS, "commit": "abcdef012345"}
    document = {
        "recipe": settings,
        "seed": settings["seed"],
        "data": DATA | {"fingerprint": "0123456789abcdef"},
        "classes": [str(digit) for digit in range(10)],
        "device": "cpu",
        "precision": "fp32",
        "loader": "resident",
        "compiled": False,
        "processes": 1,
        **part,
        "parts": [{"step": 0, **part}],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(document | config), encoding="utf-8")
    lines = rows(steps, accuracy) if logged is None else logged
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return folder
