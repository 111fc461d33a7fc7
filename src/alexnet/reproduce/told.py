"""Experiments and records as people read them on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet.reproduce.experiment import Experiment

__all__ = ["format_list", "format_record", "list_experiments", "spread"]

WIDTH = 96


def list_experiments(experiments: Mapping[str, Experiment]) -> list[dict[str, Any]]:
    """What ``alexnet reproduce --json`` prints without a name."""
    return [
        {
            "experiment": experiment.name,
            "claim": experiment.claim,
            "source": experiment.source,
            "arms": [arm.name for arm in experiment.arms],
            "seeds": experiment.seeds,
            "cost": experiment.cost,
        }
        for experiment in experiments.values()
    ]


def format_list(experiments: Mapping[str, Experiment]) -> str:
    """Name, claim, source and cost of each."""
    lines = []
    for experiment in experiments.values():
        for label, text in ((experiment.name, experiment.claim), ("", experiment.source), ("", experiment.cost)):
            lines.append(textwrap.fill(text, WIDTH, initial_indent=f"{label:10} ", subsequent_indent=" " * 11))
        lines.append("")
    return "\n".join([*lines, "run one: alexnet reproduce NAME"])


def format_record(record: Mapping[str, Any], folder: Path) -> str:
    """The arms' figures, the verdict and its sentence, and where the record and the picture are."""
    wide = max(len(arm["name"]) for arm in record["arms"])
    lines = [record["claim"], "", f"{'':{wide}}  {record['measure']}"]
    for arm in record["arms"]:
        rate = f"  rate {arm['settings']['rate']:g}" if arm.get("sweep") else ""
        lines.append(f"{arm['name']:{wide}}  {spread(arm)}{rate}")
    lines += ["", textwrap.fill(f"{record['verdict']}: {record['reason']}", WIDTH), ""]
    return "\n".join([*lines, f"record {folder / 'record.json'}", f"picture {folder / record['experiment']}.png"])


def spread(arm: Mapping[str, Any]) -> str:
    """``mean ± standard deviation (n)`` of an arm of a record; without a mean, the values."""
    values = arm["values"]
    if arm["mean"] is None:
        return ", ".join("not reached" if value is None else f"{value:.2f}" for value in values)
    deviation = f" ± {arm['std']:.2f}" if arm["std"] is not None else ""
    return f"{arm['mean']:.2f}{deviation} ({len(values)})"
