"""The run folder: whether a run may begin or go on in it, and the config.json that says what ran where."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet import hardware
from alexnet.files import git_commit, write_atomically
from alexnet.recipes import Recipe

if TYPE_CHECKING:
    from alexnet.run.session import Session

__all__ = ["check_folder", "describe_run", "read_config", "write_config"]

CONFIG = "config.json"
# A continued run may differ from its beginning in these: they do not change what is computed.
FREE = {"max_steps", "save_every", "tracker", "data_dir"}


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. FileNotFoundError or ValueError, in one line, where there is none or it is broken."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: not a run folder, it has no {CONFIG}")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    return config


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """ValueError where a run cannot begin in ``folder``, or, to be resumed, is of another recipe.

    A run killed before it wrote anything is resumed from its start, so a folder that does not exist yet is no error.
    """
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"--out {folder}: already exists; name another, or continue the run in it with --resume")
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: a file; name a run's folder")
    if (folder / CONFIG).is_file():
        before = dataclasses.asdict(Recipe()) | read_config(folder)["recipe"]
        for name, value in dataclasses.asdict(recipe).items():
            if name not in FREE and before[name] != value:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"--resume: {folder} was started with {flag} {before[name]}, not {value}")


def describe_run(s: Session) -> dict[str, Any]:
    """The whole of what decides a run, for config.json and the tracker."""
    norm = s.card.normalization
    return {
        "recipe": dataclasses.asdict(s.recipe),
        "seed": s.recipe.seed,
        "data": {
            "spec": s.recipe.data,
            "name": s.dataset.name,
            "train": len(s.dataset.train),
            "val": len(s.dataset.val),
            "val_split": s.dataset.val_split,
            "test": len(s.dataset.test or ()),
        },
        "classes": list(s.dataset.classes),
        "normalization": {"mean": norm.mean, "std": norm.std, "mean_image": bool(norm.mean_image)},
        "device": s.device.type,
        "precision": "bf16" if s.accelerator.mixed_precision == "bf16" else "fp32",
        "loader": s.batches.kind,
        "compiled": s.compiled,
        "processes": s.accelerator.num_processes,
        "hardware": hardware.describe(s.device),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Make the run folder, if need be, and write config.json into it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CONFIG, lambda file: file.write_text(text, encoding="utf-8"))
