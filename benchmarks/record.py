"""Records: the JSON files in results/. Each says what was run, where, when and by which commit."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet import system
from alexnet.checkpoint import write_atomically
from alexnet.tools.report.facts import wilson

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
LOSSY = "lossy copy of CIFAR-10 (JPEG q75)"
NAMES = {"CIFAR-10 (JPEG q75 copy)": LOSSY, "synthetic 32×32": "noise in CIFAR-10's shape"}
Record = dict[str, Any]


def origin(device: str | torch.device = "cpu") -> dict[str, Any]:
    """The hardware, versions, commit and date of a measurement made now."""
    return {
        "hardware": system.describe(torch.device(device)),
        "versions": system.versions(),
        "commit": system.git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as JSON, one key per line; lists of objects or lists have one element per line."""
    lines = []
    for key, value in record.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            text = "[\n  " + ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8"))


def data_of(record: Record) -> str:
    data = record.get("data") or record["runs"][0]["data"]
    name = data if isinstance(data, str) else data["name"]
    return NAMES.get(name, name)


def machine(record: Record) -> str:
    """Hardware and torch's version."""
    hardware = record["hardware"]
    name = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['cores']} cores"
    return f"{name}; torch {record['versions']['torch']}"


def test_accuracy(record: Record) -> float:
    """Percent of the test images: validated on at every row, or evaluated once at the end."""
    return float(record["final"].get("test_acc", record["final"]["val_acc"]))


def with_interval(record: Record) -> str:
    """A run's test accuracy and its Wilson interval."""
    images = record["data"]["test"] if "test_acc" in record["final"] else record["data"]["val"]
    low, high = wilson(test_accuracy(record), images)
    return f"{test_accuracy(record):.2f} ({low:.1f} to {high:.1f})"


class GrowingRecord:
    """A record with several ``runs``, written after each one, so that a second call continues the first.

    Args:
        path: the file. None keeps the runs in memory only.
        head: what all runs have in common.
        names: the keys that identify a run.

    Raises:
        ValueError: the file has another head.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any], names: Sequence[str]) -> None:
        self.path, self.names = path, names
        self.record: dict[str, Any] = {**head, "runs": []}
        if path and path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if different := [key for key in head if stored.get(key) != head[key]]:
                raise ValueError(f"{path}: its runs have a different {', '.join(different)}; choose another file")
            self.record = stored

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.record["runs"]  # type: ignore[no-any-return]

    def find(self, **names: Any) -> dict[str, Any] | None:
        """The run with these names; None if there is none yet."""
        return next((run for run in self.runs if all(run[key] == names[key] for key in self.names)), None)

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a run, and those that another process has added to the file meanwhile."""
        if self.path and self.path.exists():
            self.record = json.loads(self.path.read_text(encoding="utf-8"))
        self.runs.append(dict(run))
        self.write()

    def write(self) -> None:
        if self.path:
            write_record(self.path, self.record)
