"""A small run of twenty images, for tests of what may happen to one; and when two runs are the same."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet.run.tracking import read_rows
from alexnet.weights.checkpoint import load_checkpoint, load_weights

SMALL = {"batch_size": 8, "val_every": 2, "seed": 1, "epochs": 4}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
COMMAND = ["train", "quickstart", *FLAGS]

MANY = {
    "holdout": 4, "variant": "paper", "input_scale": "mean-image", "crop": "random", "color_noise": "std", "ema": 0.9,
    "schedule": "plateau", "patience": 1, "warmup": 0.5, "nesterov": True, "decay_biases": False, "val_every": 3,
    "label_smoothing": 0.1, "test_views": "ten-crop", "clip_norm": 0.0, "lr": 1e-3,
}  # fmt: skip
"""Every part of a run that classic leaves out."""

TIMES = {"images_per_sec", "data_wait_pct", "val_seconds", "save_seconds"}


def make_images(folder: Path) -> Path:
    """A folder of 20 training and 6 validation images of two classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3)):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(100 * label, 155 + 100 * label, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def assert_same_run(folder: Path, whole: Path, extra_row: int = 0) -> None:
    """Bit for bit the same weights, optimiser, random states, place and rows; only times may differ.

    ``extra_row`` is a step at which ``--max-steps`` gave ``folder`` a row that the schedule has not.
    """
    ours, theirs = load_checkpoint(folder / "last.ckpt"), load_checkpoint(whole / "last.ckpt")
    assert ours.keys() == theirs.keys()
    for part in {"model", "average", "random"} & ours.keys():
        assert ours[part].keys() == theirs[part].keys()
        for name in ours[part]:
            assert torch.equal(ours[part][name], theirs[part][name]), f"{part}: {name}"
    momenta = zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in momenta)
    assert torch.equal(ours["running"]["sums"], theirs["running"]["sums"])
    for name in ("step", "logged", "best_acc", "best_step"):
        assert ours["progress"][name] == theirs["progress"][name]
    rows = [row for row in rows_without_times(folder) if row["step"] != extra_row]
    assert rows == rows_without_times(whole)
    (best, _), (same_best, _) = (load_weights(each / "best.safetensors") for each in (folder, whole))
    assert all(torch.equal(best[name], same_best[name]) for name in best.keys() | same_best.keys())


def rows_without_times(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(folder)]
