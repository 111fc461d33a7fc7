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

from alexnet import system, train
from alexnet.checkpoint import load_model, lock_run_dir, read_rows
from alexnet.data import datasets
from alexnet.data.datasets import Dataset
from alexnet.errors import FieldError
from alexnet.evaluate import evaluate
from alexnet.recipes import Recipe, Runtime
from alexnet.tools.reproduce import small_networks
from alexnet.tools.reproduce.experiments import Arm, Experiment, FinishedRun, Settings, Small, Stage
from alexnet.tools.reproduce.record import draw, make_record, published, settings_of, write_json

__all__ = ["ExperimentResult", "run_experiment"]

PLAN, RESULT = "plan.json", "result.json"
SWEEP_SEED = 1000  # not a seed of the comparison: a rate must not be chosen on the runs that it is judged by
MAX_TRAIN_IMAGES = 5000  # to evaluate on


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
    _check_folder(folder, resume=resume)
    dataset = datasets.load(data, data_dir)
    if dataset.test is not None:  # the measures are of the test images
        dataset = replace(dataset, val=dataset.test, val_split="test", test=None)
    arms = {arm.name: arm.settings(full=full) for arm in experiment.arms}
    for name, settings in arms.items():
        if isinstance(settings, Small):
            small_networks.check(settings, dataset)
        if settings.images and settings.images >= len(dataset.train):
            arms[name] = replace(settings, images=None)
    runtime = Runtime(data_dir=data_dir, tracker="none", device=device, quiet=quiet)  # type: ignore[arg-type]
    with lock_run_dir(folder), system.signals() as stopped:
        total = len(arms) * seeds + sum(len(arm.rates) for arm in experiment.arms)
        runs = _Runs(experiment, folder, dataset, runtime, say, stopped, total)
        plan = runs.plan(arms, full=full)
        sweeps, results = {}, {name: list[dict[str, Any]]() for name in arms}
        try:
            for arm in experiment.arms:
                if arm.rates:
                    sweeps[arm.name] = runs.sweep(arm, arms[arm.name])  # type: ignore[arg-type]
                    best = min(sweeps[arm.name], key=runs.order)["rate"]
                    arms[arm.name] = replace(arms[arm.name], rate=best)  # type: ignore[call-arg]
            for seed in range(seeds):
                for arm in experiment.arms:
                    results[arm.name].append(runs.result(arm, f"seed-{seed}", arms[arm.name], seed))
        except _StoppedError:
            return ExperimentResult(folder, None, stopped())
        record = make_record(experiment, arms, results, sweeps, plan)
        write_json(folder / "record.json", record)
        draw(record, folder / f"{experiment.name}.png")
    return ExperimentResult(folder, record)


def _check_folder(folder: Path, *, resume: bool) -> None:
    """ValueError if an experiment cannot start in ``folder``, or cannot be resumed there."""
    is_used = folder.exists() and (not folder.is_dir() or any(entry.name != ".lock" for entry in folder.iterdir()))
    if is_used and not (resume and (folder / PLAN).is_file()):
        reason = "holds no experiment to resume" if resume else "already exists, and can only be resumed"
        raise ValueError(f"{folder}: {reason}; choose a different folder")


@dataclass
class _Runs:
    """The runs of an experiment: trained, or read if they are complete."""

    experiment: Experiment
    folder: Path
    dataset: Dataset
    runtime: Runtime
    say: Callable[[str], None]
    stopped: Callable[[], int | None]
    total: int
    done: int = 0

    def plan(self, arms: Mapping[str, Settings], *, full: bool) -> dict[str, Any]:
        """What is to be done, written once. ValueError if the folder holds another plan."""
        path, device = self.folder / PLAN, system.pick_device(self.runtime.device)
        dataset, experiment = self.dataset, self.experiment
        asked = {
            "experiment": experiment.name,
            "full": full,
            "arms": {arm.name: settings_of(arm, arms[arm.name]) for arm in experiment.arms},
            "measures": [measure.name for measure in experiment.measures],
            "rule": [dataclasses.asdict(comparison) for comparison in experiment.rule],
            "device": device.type,
            "precision": system.pick_precision("auto", device),
            "data": {
                "spec": published(dataset.spec),
                "name": dataset.name,
                "fingerprint": dataset.fingerprint(),
                "train": len(dataset.train),
                "test": len(dataset.val),
            },
        }
        if path.is_file():
            plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if dataset.spec.startswith("hf:") and isinstance(plan.get("data"), dict):
                plan["data"]["spec"] = dataset.spec  # FOLDER in older plans; the fingerprint is compared
            for name, value in json.loads(json.dumps(asked)).items():
                if plan.get(name) != value:
                    raise ValueError(f"{path}: the experiment was started with other {name}; choose a different folder")
            return plan
        here = {"hardware": system.describe(device), "versions": system.versions(), "commit": system.git_commit()}
        plan = asked | here | {"date": time.strftime("%Y-%m-%d")}
        write_json(path, plan)
        return plan

    def result(self, arm: Arm, name: str, settings: Settings, seed: int) -> dict[str, Any]:
        """The result of a run: from its result.json, or after training it to its end."""
        path = self.folder / arm.folder / name / RESULT
        if path.is_file():
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        else:
            if self.stopped():
                raise _StoppedError
            self.say(f"{self.experiment.name}: {arm.name}, {name}; run {self.done + 1} of {self.total}")
            began, run_folder = time.monotonic(), self.folder / self.experiment.trained_arm(arm).folder / name
            run = self._finished(arm, settings, seed, run_folder)
            if self.stopped():
                raise _StoppedError
            measures = self.experiment.measures[: 1 if seed == SWEEP_SEED else None]
            result = {
                "seed": seed,
                "values": {measure.name: measure.value(run) for measure in measures},
                "epochs": run.rows[-1]["epoch"] if run.rows else 0,
                "training_error": 100.0 if run.diverged else round(100 - run.rows[-1]["train_acc"], 3),
                "curve": _curve(run.rows, with_test=isinstance(settings, Recipe)),
                "images_per_sec": max((row.get("images_per_sec") or 0.0 for row in run.rows), default=0.0),
                "seconds": round(time.monotonic() - began, 1),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, result)
        self.done += 1
        return result

    def order(self, result: Mapping[str, Any]) -> tuple[float, float]:
        """A sort key: the best result of a sweep is the smallest."""
        value = result["values"][self.experiment.measures[0].name]
        return math.inf if value is None else value, result["training_error"]

    def sweep(self, arm: Arm, settings: Small) -> list[dict[str, Any]]:
        """The results of the arm's rates, sorted. A run that ends at an error may take as long as the best so far."""
        points: list[dict[str, Any]] = []
        for rate in arm.rates:
            at = replace(settings, rate=rate)
            best, _ = min(map(self.order, points), default=(math.inf, 0))
            if settings.stop_at is not None and best < settings.epochs:
                at = replace(at, stages=(Stage(math.ceil(best)),))
            points.append({"rate": rate} | self.result(arm, f"rate-{rate:g}", at, SWEEP_SEED))
        return sorted(points, key=lambda point: float(point["rate"]))

    def _finished(self, arm: Arm, settings: Settings, seed: int, folder: Path) -> FinishedRun:
        """A run in ``folder``, trained, resumed, or loaded if it is complete."""
        dataset, device, small = self.dataset, self.runtime.device, None
        recipe = small_networks.recipe_of(settings, dataset, seed) if isinstance(settings, Small) else settings
        diverged = False
        try:
            if isinstance(settings, Small):
                small = small_networks.train_small(settings, dataset, seed, self.runtime, folder)
            else:
                runtime = replace(self.runtime, max_steps=arm.max_steps)
                train.run(replace(recipe, seed=seed), dataset, folder, runtime=runtime, resume=True)
        except train.TrainingError:
            diverged = True
        rows = read_rows(folder)

        @functools.cache
        def evaluate_on(split: str) -> Mapping[str, float]:
            if seed == SWEEP_SEED:
                raise ValueError("rates must be chosen by a measure of the training rows, not of an evaluation")
            if diverged:
                return {"loss": math.nan, "top1": math.nan}
            images = dataset.val
            if split == "train":
                images = dataset.prepare(recipe).train
                images = images.subset(range(0, len(images), -(-len(images) // MAX_TRAIN_IMAGES)))
            if small:
                return small_networks.evaluate_small(small, dataset, images, arm.tta, device)
            return evaluate(load_model(folder), replace(dataset, val=images), arm.tta, device=device)

        return FinishedRun(rows, evaluate_on, diverged)


def _curve(rows: Sequence[Mapping[str, Any]], *, with_test: bool) -> list[list[float | None]]:
    """Epoch, training loss and error, test loss and error of each row: nats and percent, None if it has none."""

    def value(row: Mapping[str, Any], name: str) -> float | None:
        found: float | None = row.get(name)
        if found is None or (name.startswith("val") and not with_test):
            return None
        return round(100 - found if name.endswith("acc") else found, 3)

    return [[value(row, name) for name in ("epoch", "train_loss", "train_acc", "val_loss", "val_acc")] for row in rows]
