"""Conducting an experiment: every arm of every seed is a run in a folder of its own, finished once and then only read.

OUT/plan.json           what was asked for; a resumed experiment must ask for the same
OUT/ARM/seed-N/         a run folder, and result.json once the run is finished and measured
OUT/ARM/rate-R/         the same, of the sweep that chooses the arm's learning rate
OUT/record.json         the record, OUT/NAME.png the picture
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware, train
from alexnet.data import datasets
from alexnet.data.splits import Dataset
from alexnet.files import write_atomically
from alexnet.recipes import Recipe
from alexnet.reproduce.convnet import small
from alexnet.reproduce.experiment import Arm, Experiment, Measure, Small, Stage
from alexnet.reproduce.outcome import Finished
from alexnet.reproduce.pictures import draw
from alexnet.reproduce.record import PLAN, make_plan, make_record, write_record
from alexnet.run.display import duration
from alexnet.run.processes import signals
from alexnet.run.runfolder import alone_in, is_unused

__all__ = ["Conducted", "conduct"]

RESULT = "result.json"
SWEEP_SEED = 1000  # a seed that no run of the comparison has: a rate is not chosen on the runs that it is judged by
WIDEST = 3  # steps that a sweep goes beyond its rates, where the best is the last of them


class _StoppedError(Exception):
    """A signal came; its number is the argument."""


@dataclass(frozen=True)
class Conducted:
    folder: Path
    record: dict[str, Any] | None
    """None where it was stopped."""
    stopped_by: int | None = None


def conduct(
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
) -> Conducted:
    """Run an experiment, or go on with it, and write its record.

    Args:
        data, data_dir, device: as a recipe has them.
        out: its folder; by default ``runs/reproduce-NAME``. It must not exist, unless ``resume``.
        seeds: runs an arm; by default the experiment's own.
        full: as the paper did it, not shortened.
        say: is told which run begins, and how long the rest will take.
        quiet: leave out the progress within a run.

    Raises:
        ValueError: data that the experiment cannot use, or a folder that is not this experiment's.
        TrainingError: a loss became NaN or infinite in a run of the 224×224 network.
        OSError: the data cannot be had, or the disk is full.
    """
    folder = Path(out or f"runs/reproduce-{experiment.name}")
    if not resume and not is_unused(folder):
        raise ValueError(f"--out {folder}: already exists; name another, or go on with --resume")
    if resume and not is_unused(folder) and not (folder / PLAN).is_file():
        raise ValueError(f"--resume: {folder} holds no experiment; name its folder with --out")
    dataset = datasets.load(data, data_dir)
    arms = {arm.name: arm.settings(full=full) for arm in experiment.arms}
    for settings in arms.values():
        if isinstance(settings, Small):
            small.check(settings, dataset)
    arms = {name: _within(settings, len(dataset.train)) for name, settings in arms.items()}
    place = hardware.pick_device(device)
    with alone_in(folder), signals() as stopped:
        plan = make_plan(folder, experiment, arms, dataset, place, full=full)
        runs = seeds or experiment.seeds
        where = {"data": data, "data_dir": data_dir, "device": device}
        work = _Work(experiment, arms, dataset, folder, where, place, runs, stopped, say, quiet)
        try:
            work.all()
        except _StoppedError as signal:
            return Conducted(folder, None, signal.args[0])
        record = make_record(experiment, work.arms, work.results, work.sweeps, plan)
        write_record(folder / "record.json", record)
        draw(record, folder / f"{experiment.name}.png")
    return Conducted(folder, record)


def _within(settings: Small | Recipe | None, images: int) -> Small | Recipe | None:
    """``settings`` for a data set of so many training images: a limit above that is none."""
    return replace(settings, images=None) if settings and settings.images and settings.images >= images else settings


@dataclass
class _Work:
    """The runs of one experiment, in order: the sweeps, then all arms seed by seed."""

    experiment: Experiment
    arms: dict[str, Small | Recipe | None]
    """The settings of each arm; a sweep puts its rate in."""
    dataset: Dataset
    folder: Path
    where: dict[str, Any]
    """``data``, ``data_dir`` and ``device``, as a recipe has them."""
    device: torch.device
    seeds: int
    stopped: Callable[[], int | None]
    say: Callable[[str], None]
    quiet: bool
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sweeps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    spent: list[tuple[str, float]] = field(default_factory=list)
    """Arm and seconds of every run so far."""

    def all(self) -> None:
        for arm in self.experiment.arms:
            if arm.rates:
                self._sweep(arm)
        for seed in range(self.seeds):
            for arm in self.experiment.arms:
                result = self._result(arm, f"seed-{seed}", self.arms[arm.of or arm.name], seed)
                self.results.setdefault(arm.name, []).append(result)

    def _sweep(self, arm: Arm) -> None:
        """Choose the arm's learning rate: the best of its rates, or of those beyond where the best is at their end."""
        settings, choose = self.arms[arm.name], self.experiment.choose
        assert isinstance(settings, Small)
        assert choose is not None
        points: dict[float, dict[str, Any]] = {}
        to_try, beyond = list(arm.rates), WIDEST
        while to_try:
            rate, leader = to_try.pop(0), points[_best(points, choose)]["values"][choose.name] if points else None
            at = replace(settings, rate=rate)
            if settings.stop_at is not None and leader is not None:  # a race: who is later than the leader has lost
                at = replace(at, stages=(Stage(min(settings.epochs, math.ceil(leader))),))
            points[rate] = self._result(arm, f"rate-{rate:g}", at, SWEEP_SEED)
            if not to_try and beyond and (further := _beyond(sorted(points), _best(points, choose))):
                to_try, beyond = [further], beyond - 1
        self.arms[arm.name] = replace(settings, rate=_best(points, choose))
        self.sweeps[arm.name] = [{"rate": rate, **points[rate]} for rate in sorted(points)]

    def _result(self, arm: Arm, name: str, settings: Small | Recipe | None, seed: int) -> dict[str, Any]:
        """What a run came to: from its result.json, or else once it has been run to its end."""
        assert settings is not None
        folder = self.folder / arm.folder / name
        if (folder / RESULT).is_file():
            kept: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            self.spent.append((arm.name, kept["seconds"]))
            return kept
        if number := self.stopped():
            raise _StoppedError(number)
        run, began = self.folder / self.experiment.arm(arm.of or arm.name).folder / name, time.monotonic()
        self.say(self._headline(arm, name))
        if not arm.of:
            self._train(settings, seed, run)
        blind = seed == SWEEP_SEED
        finished = Finished(run, settings, arm, self.dataset, self.device, blind)
        measures = [self.experiment.choose] if blind and self.experiment.choose else self.experiment.measures
        seconds = time.monotonic() - began
        result = {
            "seed": seed,
            "values": {measure.name: _rounded(measure.of(finished)) for measure in measures},
            "epochs": finished.rows[-1]["epoch"],
            "training_error": finished.training_error,
            "curve": finished.curve(),
            "images_per_sec": max((row.get("images_per_sec") or 0.0 for row in finished.rows), default=0.0),
            "seconds": round(seconds, 1),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RESULT, lambda file: file.write_text(json.dumps(result) + "\n", encoding="utf-8"))
        self.spent.append((arm.name, seconds))
        return result

    def _train(self, settings: Small | Recipe, seed: int, run: Path) -> None:
        if isinstance(settings, Small):
            done = small.train(settings, seed, self.dataset, run, self.device, stopped=self.stopped, quiet=self.quiet)
            number = None if done else self.stopped()
        else:
            recipe = replace(settings, seed=seed, tracker="none", **self.where)
            number = train.run(recipe, out=run, resume=True, quiet=self.quiet).stopped_by  # it catches signals itself
        if number:
            raise _StoppedError(number)

    def _headline(self, arm: Arm, name: str) -> str:
        """Which run begins, which of how many it is, and how long the rest will take, as far as that is known."""
        left = {}
        for other in self.experiment.arms:
            points = [who for who, _ in self.spent].count(other.name)  # while there are no results, all of the sweep
            sweep = 0 if other.name in self.sweeps else max(other.name == arm.name, len(other.rates) - points)
            left[other.name] = (sweep if other.rates else 0) + self.seeds - len(self.results.get(other.name, ()))
        done, all_runs = len(self.spent), len(self.spent) + sum(left.values())
        line = f"{self.experiment.name}: {arm.name}, {name.replace('-', ' ')}; run {done + 1} of {all_runs}"
        if not self.spent:
            return line
        every = [seconds for _, seconds in self.spent]
        own = {other: [seconds for who, seconds in self.spent if who == other] or every for other in left}
        rest = sum(count * sum(own[other]) / len(own[other]) for other, count in left.items())
        return f"{line}, about {duration(rest)} left"


def _best(points: Mapping[float, Mapping[str, Any]], choose: Measure) -> float:
    """The rate with the least of ``choose``; of those that have none, the one with the least training error."""

    def order(rate: float) -> tuple[float, float]:
        value = points[rate]["values"][choose.name]
        return (math.inf if value is None else value, points[rate]["training_error"])

    return min(points, key=order)


def _beyond(rates: Sequence[float], best: float) -> float | None:
    """The rate one step beyond ``rates``, in rising and even steps, where the best is at one of their ends."""
    if len(rates) < 2 or rates[0] < best < rates[-1]:
        return None
    step = rates[1] / rates[0]
    return float(f"{rates[-1] * step if best == rates[-1] else rates[0] / step:.2g}")


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
