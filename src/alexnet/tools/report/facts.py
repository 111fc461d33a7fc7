"""The facts of a run that the pages state: accuracies, settings, time, machine and code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from alexnet.checkpoint import Run
from alexnet.recipes import RECIPES, Recipe, command_line, runtime_for

__all__ = [
    "SPENT", "SPLITS", "Accuracy", "accuracies", "changes", "command_of", "diverged", "document", "origin_of", "parts",
    "seconds", "shown", "wilson",
]  # fmt: skip

SPENT = {"computing": "training steps", "waiting": "waiting for data", "validating": "validation", "saving": "saving"}
SPLITS = {"test": "test", "val": "validation", "train": "training"}


@dataclass(frozen=True)
class Accuracy:
    """An accuracy of the last full row."""

    name: str
    value: float
    """Percent."""
    interval: tuple[float, float]
    """Its 95% interval in percent: how exact it is for so many images. Another seed changes it further."""
    images: str
    """What it was measured on, such as "10,000 test images"."""

    @property
    def range(self) -> str:
        return "{:.1f} to {:.1f}%".format(*self.interval)


def wilson(percent: float, count: int) -> tuple[float, float]:
    """The 95% interval of ``percent`` of ``count`` images, in percent.

    It is Wilson's (1927), as Brown, Cai and DasGupta recommend (Statistical Science 16, 2001, 101-133).
    """
    from scipy.stats import binomtest

    low, high = binomtest(round(percent * count / 100), count).proportion_ci(0.95, "wilson")
    return 100 * float(low), 100 * float(high)


def accuracies(run: Run) -> list[Accuracy]:
    """The accuracies of the last full row: on the test set if it was evaluated, then on the validation images."""
    data, found = run.config["data"], []
    for key, split in (("test", "test"), ("val", data["val_split"])):
        value, count = run.final.get(f"{key}_acc"), data[key]
        if value is not None and count:
            name, _, origin = split.partition(" ")  # as in "val (a tenth of train, seed 0)"
            images = f"{count:,} {SPLITS.get(name, name.replace('holdout', 'held-out'))} images {origin}".strip()
            found.append(Accuracy(f"{key}_acc", value, wilson(value, count), images))
    return found


def diverged(run: Run) -> bool:
    """Whether the loss or its gradient became NaN or infinite."""
    return "diverged" in run.config or any(run.final.get(name, 0.0) is None for name in ("train_loss", "val_loss"))


def parts(run: Run) -> list[dict[str, Any]]:
    """What each start or resume of the run recorded: ``step``, ``started``, ``commit``, ``hardware``, ``versions``."""
    return run.config.get("parts") or [{"step": 0} | run.config]


def origin_of(run: Run) -> dict[str, Any]:
    """What is recorded of a run's data and of how it was computed, without its recipe; None if it is not recorded."""
    config, data = run.config, run.config["data"]
    return {
        "data": data["name"],
        "images of data": ", ".join(f"{data[key]:,} {key}" for key in ("train", "val", "test") if data.get(key)),
        "fingerprint": data.get("fingerprint"),
        "validation split": data["val_split"],
        **{name: config.get(name) for name in ("device", "precision", "loader", "compiled", "lrn", "processes")},
    }


def command_of(run: Run) -> str:
    """The command that trains the run again; empty if it was given a network, or has a recipe of another version."""
    name = run.recipe.name
    if name not in RECIPES or run.config.get("given_model"):
        return ""
    own = {name: run.runtime[name] for name in ("max_steps", "tracker") if name in run.runtime}
    return command_line(run.recipe, runtime_for(name, **own))


def changes(run: Run) -> dict[str, dict[str, Any]]:
    """The fields in which the run differs from its named recipe: the value of the ``run`` and of the ``recipe``."""
    own, default = (dataclasses.asdict(each) for each in (run.recipe, RECIPES.get(run.recipe.name, Recipe)()))
    return {
        name: {"run": own[name], "recipe": default[name]}
        for name in own
        if name != "name" and own[name] != default[name]
    }


def seconds(run: Run) -> dict[str, float]:
    """Seconds up to the last full row, by what they were spent on: the keys of ``SPENT``. 0.1.0 did not record them."""
    spent = dict.fromkeys(SPENT, 0.0)
    for row in run.full_rows:
        if row.get("seconds") is None or (row["step"] % run.val_every and row is not run.final):
            continue  # a row at max_steps; the next one includes its time
        waiting = row.get("wait_seconds") or 0.0
        spent["computing"] += row["seconds"] - waiting
        spent["waiting"] += waiting
        spent["validating"] += row.get("val_seconds") or 0.0
        spent["saving"] += row.get("save_seconds") or 0.0
    return spent


def document(run: Run) -> dict[str, Any]:
    """All of a run that a page shows, for programs."""
    return {
        "folder": str(run.folder),
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "changes": changes(run),
        "last_step": run.last_step,
        "finished": run.final.get("step") == run.last_step,
        "final": run.final,
        "figures": [dataclasses.asdict(accuracy) for accuracy in accuracies(run)],
        "best_picked": run.best,
        "seconds": seconds(run),
        "config": run.config,
        "rows": run.rows,
    }


def shown(value: Any) -> str:
    """The value of a setting as text."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
