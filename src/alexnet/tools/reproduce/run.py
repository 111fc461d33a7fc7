"""Running an experiment: every seed of every arm is a run in its own folder, trained once and then only read.

OUT/plan.json           what is to be done; a resumed experiment must ask for the same
OUT/ARM/seed-N/         a run folder, and result.json once the run has been measured
OUT/ARM/rate-R/         the same, for the sweep that chooses the arm's learning rate
OUT/record.json         the record, and OUT/NAME.png its picture
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet import system, train
from alexnet.checkpoint import METRICS, load_model, lock_run_dir, parse_rows
from alexnet.data import datasets
from alexnet.data.datasets import Dataset, Images
from alexnet.evaluate import evaluate
from alexnet.recipes import FieldError, Recipe, Runtime
from alexnet.tools.reproduce import small_networks
from alexnet.tools.reproduce.experiments import Arm, Experiment, FinishedRun, Measure, Small, Stage
from alexnet.tools.reproduce.record import draw, make_record, settings_of, write_json

__all__ = ["ExperimentResult", "run_experiment"]

PLAN, RESULT = "plan.json", "result.json"
SWEEP_SEED = 1000  # not a seed of the comparison: a rate must not be chosen on the runs that it is judged by
MAX_EXTENSIONS = 3  # rates that a sweep adds while the best one is at its end
MAX_TRAIN_IMAGES = 5000  # to evaluate on
CURVE = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc")


@dataclass(frozen=True)
class ExperimentResult:
    folder: Path
    record: dict[str, Any] | None
    """None if a signal stopped the experiment."""
    stopped_by: int | None = None


class _StoppedError(Exception):
    """A signal came."""


def run_experiment(
    experiment: Experiment,
    *,
    data: str = "cifar10",
    data_dir: str = "data",
    out: str | Path | None = None,
    seeds: int | None = None,
    full: bool = False,
    resume: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> ExperimentResult:
    """Run an experiment, or resume it, and write its record. A run that diverges has no values.

    Args:
        data, data_dir, device: as in ``Recipe`` and ``Runtime``.
        out: its folder; by default ``runs/reproduce-NAME``. It must not exist, unless ``resume``.
        seeds: runs for each arm; by default the experiment's own number.
        full: run it at the paper's size.
        say: called with a line for each run that begins.
        quiet: do not show the progress within a run.

    Raises:
        ValueError: the data do not fit the experiment, or the folder holds something else.
        OSError: the data could not be downloaded, or the disk is full.
    """
    folder, seeds = Path(out or f"runs/reproduce-{experiment.name}"), experiment.seeds if seeds is None else seeds
    if seeds < 1:
        raise FieldError("seeds", "1 or more", seeds)
    is_used = folder.exists() and (not folder.is_dir() or any(entry.name != ".lock" for entry in folder.iterdir()))
    if is_used and not (resume and (folder / PLAN).is_file()):
        reason = "holds no experiment to resume" if resume else "already exists, and can only be resumed"
        raise ValueError(f"{folder}: {reason}; choose a different folder")
    dataset = datasets.load(data, data_dir)
    arms = {arm.name: experiment.settings(arm, full=full) for arm in experiment.arms}
    for name, settings in arms.items():
        if isinstance(settings, Small):
            small_networks.check(settings, dataset)
        if settings.images and settings.images >= len(dataset.train):
            arms[name] = replace(settings, images=None)
    runtime = Runtime(data_dir=data_dir, tracker="none", device=device, quiet=quiet)  # type: ignore[arg-type]
    results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in experiment.arms}
    sweeps: dict[str, list[dict[str, Any]]] = {}
    seconds: list[float] = []
    total = len(experiment.arms) * seeds + sum(len(arm.rates) for arm in experiment.arms)

    def result_of(
        arm: Arm, name: str, settings: Small | Recipe, seed: int, measures: Sequence[Measure]
    ) -> dict[str, Any]:
        """The result of a run: from its result.json, or after training it to its end."""
        path = folder / arm.folder / name / RESULT
        if path.is_file():
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        else:
            if stopped():
                raise _StoppedError
            left = sum(seconds) / max(1, len(seconds)) * (total - len(seconds)) / 60
            rest = f", about {max(1, round(left))} min left" if seconds else ""
            say(f"{experiment.name}: {arm.name}, {name}; run {len(seconds) + 1} of {total}{rest}")
            began, run_folder = time.monotonic(), folder / experiment.trained_arm(arm).folder / name
            run = _train(arm, settings, dataset, seed, runtime, run_folder)
            if stopped():
                raise _StoppedError
            result = {
                "seed": seed,
                "values": {measure.name: _rounded(measure.of(run)) for measure in measures},
                "epochs": run.rows[-1]["epoch"] if run.rows else 0,
                "training_error": 100.0 if run.diverged else round(100 - run.rows[-1]["train_acc"], 3),
                "curve": _curve(run, with_test=isinstance(settings, Recipe)),
                "images_per_sec": max((row.get("images_per_sec") or 0.0 for row in run.rows), default=0.0),
                "seconds": round(time.monotonic() - began, 1),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, result)
        seconds.append(result["seconds"])
        return result

    def sweep(arm: Arm, settings: Small, choose: Measure) -> None:
        """Choose the arm's learning rate. While the best one is at an end of the sweep, add one beyond it."""
        nonlocal total
        points: dict[float, dict[str, Any]] = {}

        def order(rate: float) -> tuple[float, float]:
            value = points[rate]["values"][choose.name]
            return (math.inf if value is None else value, points[rate]["training_error"])

        rates = list(arm.rates)
        while rates:
            at = replace(settings, rate=rates.pop(0))
            best = order(min(points, key=order))[0] if points else math.inf
            if settings.stop_at is not None and best < settings.epochs:  # a later end than the best has lost the race
                at = replace(at, stages=(Stage(math.ceil(best)),))
            points[at.rate] = result_of(arm, f"rate-{at.rate:g}", at, SWEEP_SEED, [choose])
            further = _beyond(sorted(points), min(points, key=order))
            if not rates and further and len(points) < len(arm.rates) + MAX_EXTENSIONS:
                rates, total = [further], total + 1
        for other in experiment.arms:
            if arm.name in (other.name, other.of):
                arms[other.name] = replace(settings, rate=min(points, key=order))
        sweeps[arm.name] = [{"rate": rate, **points[rate]} for rate in sorted(points)]

    folder.mkdir(parents=True, exist_ok=True)
    with lock_run_dir(folder), train.signals() as stopped:
        plan = _plan(folder, experiment, arms, dataset, system.pick_device(device), full=full)
        try:
            for arm in experiment.arms:
                settings = arms[arm.name]
                if arm.rates and experiment.choose and isinstance(settings, Small):
                    sweep(arm, settings, experiment.choose)
            for seed in range(seeds):
                for arm in experiment.arms:
                    result = result_of(arm, f"seed-{seed}", arms[arm.name], seed, experiment.measures)
                    results[arm.name].append(result)
        except _StoppedError:
            return ExperimentResult(folder, None, stopped())
        record = make_record(experiment, arms, results, sweeps, plan)
        write_json(folder / "record.json", record)
        draw(record, folder / f"{experiment.name}.png")
    return ExperimentResult(folder, record)


def _plan(
    folder: Path,
    experiment: Experiment,
    arms: Mapping[str, Small | Recipe],
    dataset: Dataset,
    device: torch.device,
    *,
    full: bool,
) -> dict[str, Any]:
    """What is to be done, written once. ValueError if the folder holds another plan."""
    asked = {
        "experiment": experiment.name,
        "full": full,
        "arms": {arm.name: settings_of(arm, arms[arm.name]) for arm in experiment.arms},
        "views": {arm.name: [arm.of, arm.tta] for arm in experiment.arms},
        "measures": [measure.name for measure in experiment.measures],
        "rule": [dataclasses.asdict(comparison) for comparison in experiment.rule],
        "device": device.type,
        "precision": system.pick_precision("auto", device),
        "data": {
            "spec": dataset.spec if dataset.spec in ("cifar10", "digits") else "FOLDER",
            "name": dataset.name,
            "fingerprint": dataset.fingerprint(),
            "train": len(dataset.train),
            "test": len(dataset.val),
        },
    }
    if (folder / PLAN).is_file():
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        for name, value in json.loads(json.dumps(asked)).items():
            if plan.get(name) != value:
                raise ValueError(f"{folder}: the experiment was started with other {name}; choose a different folder")
        return plan
    plan = asked | {
        "hardware": system.describe(device),
        "versions": system.versions(),
        "commit": system.git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_json(folder / PLAN, plan)
    return plan


def _train(
    arm: Arm, settings: Small | Recipe, dataset: Dataset, seed: int, runtime: Runtime, folder: Path
) -> FinishedRun:
    """Train a run in ``folder``, resume it, or load it if it is complete."""
    diverged, small = False, None
    try:
        if isinstance(settings, Small):
            small = small_networks.train_small(settings, dataset, seed, runtime, folder)
        else:
            own = replace(runtime, max_steps=arm.max_steps)
            train.run(replace(settings, seed=seed), dataset, folder, runtime=own, resume=True)
    except train.TrainingError:
        diverged = True
    rows = [row for _, row in parse_rows(folder / METRICS)] if (folder / METRICS).is_file() else []

    @functools.cache
    def evaluate_on(split: str) -> Mapping[str, float]:
        if seed == SWEEP_SEED:
            raise ValueError("choose must be a measure of the training rows; it must not evaluate the network")
        if diverged:
            return {"loss": math.nan, "top1": math.nan}
        images = dataset.val if split == "test" else train_images()
        if small:
            return small_networks.evaluate_small(small, dataset, images, arm.tta, runtime.device)
        return evaluate(load_model(folder), replace(dataset, val=images), arm.tta, device=runtime.device)

    def train_images() -> Images:
        recipe = small_networks.recipe_of(settings, dataset, seed) if isinstance(settings, Small) else settings
        images = dataset.prepare(recipe).train
        return images.subset(range(0, len(images), -(-len(images) // MAX_TRAIN_IMAGES)))

    return FinishedRun(rows, evaluate_on, diverged)


def _curve(run: FinishedRun, *, with_test: bool) -> list[list[float | None]]:
    """``CURVE`` of each row: losses in nats, accuracies as errors in percent, None where the row has none."""

    def value(row: Mapping[str, Any], name: str) -> float | None:
        found: float | None = row.get(name)
        if found is None or (name.startswith("val") and not with_test):
            return None
        return round(100 - found if name.endswith("acc") else found, 3)

    return [[value(row, name) for name in CURVE] for row in run.rows]


def _beyond(rates: Sequence[float], best: float) -> float | None:
    """The next rate beyond ``rates``, which ascend in equal ratios, if the best one is the first or the last."""
    if len(rates) < 2 or rates[0] < best < rates[-1]:
        return None
    step = rates[1] / rates[0]
    return float(f"{rates[-1] * step if best == rates[-1] else rates[0] / step:.2g}")


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
