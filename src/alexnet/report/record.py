"""What a run folder says of its run, read for people: how far it came, its figures, its parts, where its time went.

A run may still go on, have failed or be of an older version: what its files lack is None or empty here.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.recipes import RECIPES, Recipe, command, field_types
from alexnet.report.intervals import wilson
from alexnet.run.runfolder import read_config
from alexnet.run.tracking import read_rows

__all__ = ["Figure", "Part", "Record", "isolated", "read", "shown"]

_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@dataclass(frozen=True)
class Figure:
    """An accuracy in percent, on how many images it was measured, and its Wilson interval if that is known."""

    name: str
    split: str
    value: float
    count: int | None
    interval: tuple[float, float] | None

    @property
    def images(self) -> str:
        """What it was measured on: "10,000 test images"."""
        return _images(self.split, self.count)


@dataclass(frozen=True)
class Part:
    """A stretch of a run between two starts of the program."""

    step: int
    started: str
    commit: str
    machine: str
    versions: str


@dataclass(frozen=True, eq=False)
class Record:
    """One run, from its ``config.json`` and ``metrics.jsonl``."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The folder's name, fit to stand in a sentence."""
        return isolated(self.folder.resolve().name or str(self.folder))

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's fields as the run had them."""
        return self.config["recipe"]  # type: ignore[no-any-return]

    @property
    def recipe(self) -> str:
        return str(self.settings.get("name") or "unnamed")

    @property
    def seed(self) -> Any:
        return self.settings.get("seed", self.config.get("seed"))

    @property
    def data(self) -> dict[str, Any]:
        found = self.config.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def classes(self) -> int | None:
        found = self.config.get("classes")
        return len(found) if isinstance(found, list) and len(found) > 1 else None

    @functools.cached_property
    def full_rows(self) -> list[dict[str, Any]]:
        """The rows with both losses; between them stand those of an epoch's end."""
        return [row for row in self.rows if "train_loss" in row or "val_loss" in row]

    @property
    def final(self) -> dict[str, Any]:
        """The last full row: the run's result, if it is at its end."""
        return self.full_rows[-1] if self.full_rows else {}

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def steps_per_epoch(self) -> int | None:
        train, batch = _count(self.data.get("train")), _count(self.settings.get("batch_size"))
        return math.ceil(train / batch) if train and batch else None

    @property
    def total_steps(self) -> int | None:
        """Of the whole schedule."""
        epochs = _count(self.settings.get("epochs"))
        return epochs * self.steps_per_epoch if epochs and self.steps_per_epoch else None

    @property
    def last_step(self) -> int | None:
        """Where the run is to end."""
        limit = _count(self.settings.get("max_steps"))
        return min(self.total_steps, limit or self.total_steps) if self.total_steps else None

    @property
    def finished(self) -> bool:
        return bool(self.last_step) and self.final.get("step") == self.last_step

    @property
    def diverged(self) -> bool:
        """Whether the last full row has a loss that is no number."""
        return any(name in self.final and self.final[name] is None for name in ("train_loss", "val_loss"))

    def figures(self) -> list[Figure]:
        """The accuracies of the last full row: on the test images, where they were opened, then on the validation's."""
        places = (("test_acc", "test", "test"), ("val_acc", self.data.get("val_split", "val"), "val"))
        return [
            self._figure(name, str(split), self.final[name], _count(self.data.get(key)))
            for name, split, key in places
            if self.final.get(name) is not None
        ]

    @staticmethod
    def _figure(name: str, split: str, value: float, count: int | None) -> Figure:
        known = 0 <= value <= 100
        return Figure(name, split, value, count, wilson(round(value * count / 100), count) if count and known else None)

    @property
    def best(self) -> dict[str, Any]:
        """``val_acc`` and ``step`` of the highest validation on the way; empty before the first one."""
        names = ("val_acc", "epoch_val_acc")
        found = [(row[name], -row["step"]) for row in self.rows for name in names if row.get(name) is not None]
        return {"val_acc": max(found)[0], "step": -max(found)[1]} if found else {}

    @functools.cached_property
    def parts(self) -> list[Part]:
        """From the first start to the last resume."""
        listed = self.config.get("parts")
        parts = [part for part in listed if isinstance(part, dict)] if isinstance(listed, list) else []
        return [_part(part) for part in parts or [{"step": 0} | self.config]]

    @property
    def resumed_at(self) -> list[int]:
        return [part.step for part in self.parts[1:]]

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What differs from the named recipe: the run's value and the recipe's, by field."""
        base = RECIPES[self.recipe]() if self.recipe in RECIPES else Recipe()
        return {
            name: (value, getattr(base, name))
            for name, value in self.settings.items()
            if name in field_types() and name != "name" and value != getattr(base, name)
        }

    def command(self) -> str | None:
        """What to type to train it again; None where this version of alexnet does not know its recipe."""
        try:
            return command(Recipe(**self.settings)) if self.recipe in RECIPES else None
        except (TypeError, ValueError):
            return None

    def seconds(self) -> dict[str, float]:
        """Seconds spent ``computing`` and ``waiting`` for data in steps, ``validating`` and ``saving``, up to the last
        full row, as far as the rows tell.

        A full row counts from the one before whose step is a multiple of ``val_every``.
        """
        every = _count(self.settings.get("val_every"))
        if every is None:
            return {}
        spent: dict[str, float] = {}
        before = 0
        for row in self.full_rows:
            if row["step"] % every and row is not self.final:
                continue
            if row.get("images_per_sec") and (images := self._images_until(row["step"]) - self._images_until(before)):
                seconds = images / row["images_per_sec"]
                waited = seconds * (row.get("data_wait_pct") or 0.0) / 100
                spent["computing"] = spent.get("computing", 0.0) + seconds - waited
                spent["waiting"] = spent.get("waiting", 0.0) + waited
            for key, name in (("val_seconds", "validating"), ("save_seconds", "saving")):
                if row.get(key) is not None:
                    spent[name] = spent.get(name, 0.0) + row[key]
            before = row["step"]
        return spent

    def _images_until(self, step: int) -> int:
        """Images trained on by then; 0 where the config does not say how large a batch and the data set are."""
        if self.steps_per_epoch is None:
            return 0
        epochs, rest = divmod(step, self.steps_per_epoch)
        return int(epochs * self.data["train"] + rest * self.settings["batch_size"])


def read(folder: Path) -> Record:
    """Read a run folder.

    Raises:
        OSError: no such folder, or none of a run.
        ValueError: a file of it is broken or foreign; one line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: {'a file, not a run folder' if folder.exists() else 'no such run folder'}")
    config = read_config(folder)
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), dict):
        raise ValueError(f"{folder}/config.json: not of a run of alexnet, it holds no recipe")
    if not isinstance(seed := config["recipe"].get("seed"), int | None):
        raise ValueError(f"{folder}/config.json: seed {seed!r} is no whole number")
    try:
        rows = read_rows(folder)
    except FileNotFoundError:
        rows = []
    return Record(folder, config, rows)


def _machine(config: dict[str, Any]) -> str:
    """The hardware of a config or a part of one, in a few words."""
    found = config.get("hardware")
    if not isinstance(found, dict):
        return "not recorded"
    cores = f", {found['cores']} cores" if "cores" in found else ""
    return str(found.get("gpu") or f"{found.get('cpu', 'unknown processor')}{cores}")


def isolated(name: str) -> str:
    """A name that may be written from right to left, so that it does not reorder the words around it."""
    plain = "".join(sign for sign in name if unicodedata.bidirectional(sign) not in _DIRECTIONS)
    if any(unicodedata.bidirectional(sign) in ("R", "AL", "AN") for sign in plain):
        return f"\u2068{plain}\u2069"
    return plain


def shown(value: Any) -> str:
    """A setting's value for people."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _images(split: str, count: int | None) -> str:
    """A split in words. A data set may add in brackets how the split came about: that stays behind the images."""
    name, _, how = split.partition(" ")
    named = {"val": "validation", "holdout": "held-out"}.get(name, name)
    return " ".join(filter(None, [f"{count:,}" if count else "", named, "images", how]))


def _part(config: dict[str, Any]) -> Part:
    versions = config.get("versions")
    told = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else ""
    return Part(
        step=_count(config.get("step")) or 0,
        started=str(config.get("started") or "not recorded").replace("T", " "),
        commit=str(config.get("commit") or "not recorded"),
        machine=_machine(config),
        versions=told or "not recorded",
    )


def _count(value: Any) -> int | None:
    """A whole number above 0, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
