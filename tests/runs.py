"""Small runs for tests: twenty images, a narrow network, and what makes two runs the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet import load_run, recipes, train
from alexnet.checkpoint import load_checkpoint, load_weights
from alexnet.recipes import Runtime, field_types

SMALL: dict[str, Any] = {"batch_size": 8, "val_every": 2, "seed": 1, "epochs": 4, "width_mult": 1 / 16}
COMMAND = ["train", "quickstart", *(word for name, value in SMALL.items() for word in recipes.flags(name, value))]

# every part of a run that classic leaves out
MANY: dict[str, Any] = {
    "holdout": 4, "variant": "paper", "input_scale": "mean-image", "ema": 0.9, "schedule": "plateau", "patience": 1,
    "augment": ("random_crop", "flip", "pca_color_std"), "warmup": 0.5, "nesterov": True, "decay_biases": False,
    "val_every": 3, "label_smoothing": 0.1, "tta": "ten-crop", "clip_norm": 0.0, "lr": 1e-3,
}  # fmt: skip

TIMES = {"images_per_sec", "data_wait_pct", "seconds", "wait_seconds", "val_seconds", "save_seconds"}


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


def run_small(
    images: Path | str,
    out: Path,
    /,
    *,
    resume: bool = False,
    callbacks: tuple[train.Callback, ...] = (),
    model: torch.nn.Module | None = None,
    **changes: Any,
) -> train.Result:
    """``train.run`` of the recipe quickstart with ``SMALL``; ``changes`` are fields of ``Recipe`` or ``Runtime``."""
    runtime = {name: changes.pop(name) for name in list(changes) if name in field_types(Runtime)}
    recipe = recipes.quickstart(**{"data": str(images)} | SMALL | changes)
    options = Runtime(**{"tracker": "none", "quiet": True} | runtime)
    return train.run(recipe, out=out, runtime=options, resume=resume, callbacks=callbacks, model=model)


def assert_same_run(folder: Path, whole: Path, stops: Sequence[int] = ()) -> None:
    """Bit for bit the same weights, optimizer, random states, place and rows; only times may differ.

    Rows at ``stops`` are not compared: there ``max_steps`` may have given ``folder`` a row that ``whole`` lacks.
    """
    ours, theirs = load_checkpoint(folder / "last.ckpt"), load_checkpoint(whole / "last.ckpt")
    assert ours.keys() == theirs.keys()
    for part in {"model", "average", "random"} & ours.keys():
        assert_equal(ours[part], theirs[part])
    assert_equal(ours["optimizer"]["state"], theirs["optimizer"]["state"])
    assert_equal(ours["running"]["sums"], theirs["running"]["sums"])
    for name in ("step", "logged", "best_acc", "best_step", "drops", "stale", "plateau_acc"):
        assert ours["progress"][name] == theirs["progress"][name]
    rows, expected = ([row for row in rows_without_times(each) if row["step"] not in stops] for each in (folder, whole))
    assert rows == expected
    assert_equal(*(load_weights(each / "best.safetensors")[0] for each in (folder, whole)))


def assert_equal(ours: Any, theirs: Any) -> None:
    """Tensors, or what holds them, that are equal bit for bit."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def rows_without_times(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in load_run(folder).rows]
