"""The rows of the tables that report.py writes, from records."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from alexnet.report.intervals import wilson

MEASURES = {
    "train_step": "training step of 128, data included",
    "matrix_rate_share": "share of the bf16 matrix rate that a step reaches",
    "data_path": "data path alone",
    "lrn": "response normalisation, forward and backward, 128×96×55×55; bf16 channels last against float32",
    "lrn_float32": "the same, both in float32",
    "validation": "validation of 10,000 images; the usual way's in two passes",
    "classic_job": "the whole `classic` job, 13 epochs",
    "classic_job_one_pass": "the same, if the usual way validated in one pass",
    "inference": "inference from 512 image files",
    "peak_memory": "peak memory of steps and validations",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns but the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± standard deviation``; of a single value, the value."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def figure(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def machine(record: dict[str, Any]) -> str:
    """Hardware and versions in a few words."""
    hardware, versions = record["hardware"], record["versions"]
    name = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['cores']} cores"
    return f"{name}; torch {versions['torch']}"


def origins(record: dict[str, Any]) -> str:
    """Machine and commit of each run in a growing record, each pair once."""
    return "; ".join(dict.fromkeys(f"{machine(run)}, commit {run['commit']}" for run in record["runs"]))


def groups(accuracy: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs that differ in nothing but their seed."""
    found = defaultdict(list)
    for record in accuracy:
        recipe = {key: value for key, value in record["recipe"].items() if key not in ("seed", "tracker", "save_every")}
        key = (
            json.dumps(recipe, sort_keys=True),
            record["steps"],
            record["precision"],
            record["loader"],
            machine(record),
        )
        found[key].append(record)
    return sorted(found.values(), key=lambda runs: (runs[0]["recipe"]["name"], runs[0]["steps"]))


def whole_runs(accuracy: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that came to the end of their schedule."""
    return [record for record in accuracy if record["final"]["epoch"] == record["recipe"]["epochs"]]


def test_accuracy(record: dict[str, Any]) -> float:
    """Of the test images, in percent: validated on at every row, or opened once at the end."""
    final = record["final"]
    return float(final.get("test_acc", final["val_acc"]))


def with_interval(record: dict[str, Any]) -> str:
    """A run's test accuracy, and in brackets Wilson's interval."""
    images = record["data"]["test"] if "test_acc" in record["final"] else record["data"]["val"]
    low, high = wilson(round(test_accuracy(record) * images / 100), images)
    return f"{test_accuracy(record):.2f} ({low:.1f} to {high:.1f})"


def accuracy_table(runs_by_setting: Iterable[list[dict[str, Any]]]) -> str:
    """A row a setting; a column in which no row has anything is left out."""
    head = ["recipe", "data", "epochs", "runs", "test accuracy, %", "test loss", "minutes a run", "on"]
    rows = []
    for runs in runs_by_setting:
        first = runs[0]
        finals = [run["final"] for run in runs]
        rows.append(
            [
                f"`{first['recipe']['name']}`",
                first["data"]["name"],
                f"{first['final']['epoch']:.3g} of {first['recipe']['epochs']}",
                str(len(runs)),
                with_interval(first) if len(runs) == 1 else spread([test_accuracy(run) for run in runs], 2),
                spread([final.get("test_loss", final["val_loss"]) for final in finals], 3),
                spread([run["wall_seconds"] / 60 for run in runs if run["wall_seconds"]]),
                f"{first['device']}, {first['precision']}",
            ]
        )
    filled = [column for column in range(len(head)) if any(row[column] != "–" for row in rows)]
    return table([head[column] for column in filled], [[row[column] for column in filled] for row in rows])


def class_rows(record: dict[str, Any]) -> list[list[str]]:
    """A confusion matrix: a row a true class, with how many percent of it were right, and a column an answer."""
    return [
        [name, f"{100 * row[i] / sum(row):.1f}", *(f"**{n}**" if i == j else str(n) for j, n in enumerate(row))]
        for i, (name, row) in enumerate(zip(record["classes"], record["confusion"], strict=True))
    ]


def compare_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            MEASURES[row["name"]],
            *(
                f"{figure(row[side])} ({figure(min(row[side + '_all']))} to {figure(max(row[side + '_all']))})"
                for side in ("ours", "baseline")
            ),
            row["unit"] + (f"; {row['share_of_copy_pct']}% of a copy's rate" if "share_of_copy_pct" in row else ""),
            "; ".join([f"**{row['ratio']:.2f}**", *(f"{ratio:.2f}" for ratio in row.get("other_runs", ()))]),
        ]
        for row in record["rows"]
    ]


def change_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["name"],
            f"{statistics.median(row['seconds']):.3g} ({min(row['seconds']):.3g} to {max(row['seconds']):.3g})",
        ]
        for row in record["rows"]
    ]


def agreement_rows(record: dict[str, Any]) -> list[list[str]]:
    plain, rows = record["losses"]["plain"], []
    for name in ("fast", "plain, rounded images"):
        losses = record["losses"][name]
        gaps = [abs(a - b) for a, b in zip(losses, plain, strict=True)]
        rows.append([name, f"{statistics.mean(gaps):.4f}", f"{max(gaps):.4f}", f"{losses[-1]:.3f} ({plain[-1]:.3f})"])
    return rows


def learning_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"`{run['input_scale']}`",
            f"`{run['init']}`",
            f"step {run['learned_at']}" if run["learned_at"] else "no",
            f"{run['losses'][0]:.3f}",
            f"{statistics.mean(run['losses'][-20:]):.3f}",
        ]
        for run in record["runs"]
    ]


def decode_rows(record: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, way in record["ways"].items():
        rates = [f"{statistics.median(all):.0f} ({min(all):.0f} to {max(all):.0f})" for all in way["rates"].values()]
        agrees = "of another size"
        if "equal_pct" in way:
            agrees = f"{way['equal_pct']:.4g}% equal, at most {way['largest_difference']} off"
        rows.append([f"`{name}`" if "." in name else name, *rates, agrees])
    return rows
