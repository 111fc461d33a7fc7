"""The record of an experiment: what was planned, what every run came to, and the verdict."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware
from alexnet.data.splits import Dataset
from alexnet.files import git_commit, write_atomically
from alexnet.recipes import Recipe
from alexnet.reproduce.experiment import Arm, Experiment, Small
from alexnet.reproduce.verdicts import Comparison, Values, judge

__all__ = ["PLAN", "make_plan", "make_record", "write_record"]

PLAN = "plan.json"


def make_plan(
    folder: Path,
    experiment: Experiment,
    arms: Mapping[str, Small | Recipe | None],
    dataset: Dataset,
    place: torch.device,
    *,
    full: bool,
) -> dict[str, Any]:
    """What is about to be done, written down once. ValueError where something else was begun in the folder."""
    told = {name: dataclasses.asdict(settings) if settings else None for name, settings in arms.items()}
    asked = {
        "experiment": experiment.name,
        "full": full,
        "arms": told,
        "views": {arm.name: [arm.of, arm.views] for arm in experiment.arms},
        "measures": [measure.name for measure in experiment.measures],
        "rule": [dataclasses.asdict(comparison) for comparison in experiment.rule],
        "device": place.type,
        "precision": hardware.pick_precision("auto", place),
        "data": {
            "spec": dataset.spec if dataset.spec in ("cifar10", "digits") else "FOLDER",
            "name": dataset.name,
            "fingerprint": dataset.fingerprint(),
            "train": len(dataset.train),
            "test": len(dataset.val),
        },
    }
    asked = json.loads(json.dumps(asked))
    if (folder / PLAN).is_file():
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        for name, value in asked.items():
            if plan.get(name, value) != value:  # plans of an older version hold less
                raise ValueError(f"--resume: {folder} was begun with another choice of {name}; name another folder")
        return plan
    plan = asked | {
        "hardware": hardware.describe(place),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / PLAN, plan)
    return plan


def make_record(
    experiment: Experiment,
    arms: Mapping[str, Small | Recipe | None],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    sweeps: Mapping[str, Sequence[Mapping[str, Any]]],
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``alexnet reproduce --json`` prints and ``results/`` keeps.

    Args:
        arms: the settings of each arm, with the rate that its sweep chose.
        results, sweeps: of each arm, what its runs came to.
    """
    names = [measure.name for measure in experiment.measures]
    values = {arm: {name: [run["values"][name] for run in runs] for name in names} for arm, runs in results.items()}
    seeds = min(len(runs) for runs in results.values())
    every = [run for runs in (*results.values(), *sweeps.values()) for run in runs]
    return {
        "kind": "reproduce",
        "experiment": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "measure": names[0],
        "chart": experiment.chart,
        "arms": [
            _arm_entry(experiment, arm, arms, results[arm.name], values[arm.name], sweeps.get(arm.name))
            for arm in experiment.arms
        ],
        **_verdict(experiment, arms, values, seeds, plan),
        "command": f"alexnet reproduce {experiment.file or experiment.name} --data {plan['data']['spec']}"
        + " --full" * plan["full"]
        + (f" --seeds {seeds}" if seeds != experiment.seeds else ""),
        "full": plan["full"],
        **{name: plan[name] for name in ("data", "device", "precision", "hardware", "versions", "commit", "date")},
        "seconds": round(sum(run["seconds"] for run in every), 1),
    }


def _verdict(
    experiment: Experiment,
    arms: Mapping[str, Small | Recipe | None],
    values: Values,
    seeds: int,
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """``verdict``, one word; ``reason``, one sentence; and the ``findings`` they come from."""
    word, findings = judge([_with_limit(comparison, experiment, arms) for comparison in experiment.rule], values)
    where = f"{plan['data']['name']}, {seeds} seed{'s' * (seeds != 1)}"
    how = "as the paper did it" if plan["full"] else experiment.short
    reason = f"{'; '.join(finding.sentence for finding in findings)}. {where}; {how}."
    if plan["data"]["spec"] == "digits":  # 8×8 pixels, ten shapes
        reason = f"Digits settle nothing of a claim about photographs. By the rule: {word}. {reason}"
        word = "too few runs"
    return {"verdict": word, "reason": reason, "findings": [dataclasses.asdict(finding) for finding in findings]}


def _arm_entry(
    experiment: Experiment,
    arm: Arm,
    arms: Mapping[str, Small | Recipe | None],
    runs: Sequence[Mapping[str, Any]],
    values: Mapping[str, Sequence[float | None]],
    sweep: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """An arm: its settings, and the values of its runs, one a seed."""
    settings, (first, *others) = arms[arm.of or arm.name], values
    assert settings is not None
    entry: dict[str, Any] = {
        "name": arm.name,
        "settings": _settings(settings) | ({"views": arm.views} if arm.of or arm.views != "center" else {}),
        "seeds": [run["seed"] for run in runs],
        "values": values[first],
        "mean": _mean(values[first]),
        "std": _std(values[first]),
        "also": {name: values[name] for name in others},
        "images_per_sec": round(max(run["images_per_sec"] for run in runs)),
    }
    if sweep is not None:
        entry["sweep"] = [_point(point, experiment) for point in sweep]
    if experiment.chart != "values":
        entry["curves"] = [run["curve"] for run in runs]
    return entry


def _with_limit(
    comparison: Comparison, experiment: Experiment, arms: Mapping[str, Small | Recipe | None]
) -> Comparison:
    """``comparison`` with the epochs of its runs, of which the shorter counts, for the limit ``end``."""
    if comparison.limit != "end":
        return comparison
    both = [experiment.arm(name) for name in (comparison.better, comparison.worse)]
    runs = [arms[arm.of or arm.name] for arm in both]
    return dataclasses.replace(comparison, limit=min(run.epochs for run in runs if run))


def _settings(settings: Small | Recipe) -> dict[str, Any]:
    """What decides the runs, but for the seed and the places of this machine; as JSON has it."""
    told = json.loads(json.dumps(dataclasses.asdict(settings)))
    return {
        name: value for name, value in told.items() if name not in ("seed", "data", "data_dir", "tracker", "device")
    }


def _point(point: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    assert experiment.choose is not None
    value = point["values"][experiment.choose.name]
    return {"rate": point["rate"], "value": value, "epochs": point["epochs"], "training_error": point["training_error"]}


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value was not reached: the mean of the others would flatter the arm."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def _std(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 and len(known) == len(values) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """As JSON, a list of numbers on one line. Whole or not at all."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    text = re.sub(r"\[[\d\s.,\-enul+]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
