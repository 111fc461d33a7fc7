"""The record of an experiment: the values of its runs, the verdict, the text on a terminal and the picture."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.checkpoint import write_atomically
from alexnet.curves import canvas, save_png
from alexnet.recipes import Recipe
from alexnet.tools.reproduce.experiments import WIDTH, Arm, Experiment, Small
from alexnet.tools.reproduce.verdicts import judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "format_record", "make_record", "settings_of", "spread", "write_json"]

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The result.json of the runs of each arm."""

FIRST, SECOND, SOFT = "#2f6690", "#c0562f", "#6b7280"


def make_record(
    experiment: Experiment,
    arms: Mapping[str, Small | Recipe],
    results: Results,
    sweeps: Results,
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``alexnet reproduce --json`` prints and ``results/`` keeps.

    Args:
        arms: the settings of each arm, with the learning rate that its sweep chose.
        results, sweeps: of each arm, the results of its runs, one a seed or one a rate.
        plan: the content of plan.json.
    """
    first, *others = (measure.name for measure in experiment.measures)
    values = {
        arm: {name: [run["values"][name] for run in runs] for name in (first, *others)} for arm, runs in results.items()
    }
    entries = []
    for arm in experiment.arms:
        runs, settings = results[arm.name], settings_of(arm, arms[arm.name])
        entry = {
            "name": arm.name,
            "settings": settings | ({"views": arm.tta} if arm.of or arm.tta != "center" else {}),
            "seeds": [run["seed"] for run in runs],
            "values": values[arm.name][first],
            **_mean_and_std(values[arm.name][first]),
            "also": {name: values[arm.name][name] for name in others},
            "images_per_sec": round(max(run["images_per_sec"] for run in runs)),
        }
        if arm.rates:
            assert experiment.choose is not None
            entry["sweep"] = [
                {
                    "rate": point["rate"],
                    "value": point["values"][experiment.choose.name],
                    "epochs": point["epochs"],
                    "training_error": point["training_error"],
                }
                for point in sweeps[arm.name]
            ]
        if experiment.chart != "values":
            entry["curves"] = [run["curve"] for run in runs]
        entries.append(entry)

    seeds = len(entries[0]["seeds"])
    rule = [
        dataclasses.replace(comparison, limit=min(arms[comparison.better].epochs, arms[comparison.worse].epochs))
        if comparison.limit == "end"
        else comparison
        for comparison in experiment.rule
    ]
    verdict, findings = judge(rule, values)
    scope = "at the paper's size" if plan["full"] else experiment.short
    reason = "; ".join(finding.sentence for finding in findings)
    reason += f". {plan['data']['name']}, {seeds} seed{'s' * (seeds != 1)}; {scope}."
    if plan["data"]["spec"] == "digits":  # ten shapes of 8×8 pixels
        reason = f"Digits cannot settle a claim about photographs. By the rule: {verdict}. {reason}"
        verdict = "too few runs"
    command = f"alexnet reproduce {experiment.file or experiment.name} --data {plan['data']['spec']}"
    command += " --full" * plan["full"] + (f" --seeds {seeds}" if seeds != experiment.seeds else "")
    every = [run for runs in (*results.values(), *sweeps.values()) for run in runs]
    return {
        "kind": "reproduce",
        "experiment": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "measure": first,
        "chart": experiment.chart,
        "arms": entries,
        "verdict": verdict,
        "reason": reason,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "command": command,
        "full": plan["full"],
        **{name: plan[name] for name in ("data", "device", "precision", "hardware", "versions", "commit", "date")},
        "seconds": round(sum(run["seconds"] for run in every), 1),
    }


def settings_of(arm: Arm, settings: Small | Recipe) -> dict[str, Any]:
    """What decides the arm's runs besides the seed and the data, as JSON has it."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    if arm.max_steps:
        fields["max_steps"] = arm.max_steps
    return {name: value for name, value in fields.items() if name not in ("seed", "data")}


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    """None if a value was not reached: the mean of the others would be too good."""
    found = [value for value in values if value is not None]
    complete = len(found) == len(values)
    return {
        "mean": statistics.mean(found) if found and complete else None,
        "std": statistics.stdev(found) if len(found) > 1 and complete else None,
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write atomically, with lists of numbers on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    text = re.sub(r"\[[\d\s.,\-enul+]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def format_record(record: Mapping[str, Any], folder: Path) -> str:
    """The values of the arms, the verdict and its reason, and where the files are."""
    width = max(len(arm["name"]) for arm in record["arms"])
    lines = [record["claim"], "", f"{'':{width}}  {record['measure']}"]
    for arm in record["arms"]:
        rate = f"  rate {arm['settings']['rate']:g}" if arm.get("sweep") else ""
        lines.append(f"{arm['name']:{width}}  {spread(arm)}{rate}")
    lines += ["", textwrap.fill(f"{record['verdict']}: {record['reason']}", WIDTH), ""]
    return "\n".join([*lines, f"record {folder / 'record.json'}", f"picture {folder / record['experiment']}.png"])


def spread(arm: Mapping[str, Any]) -> str:
    """``mean ± standard deviation (n)`` of an arm of a record; the values if there is no mean."""
    values = arm["values"]
    if arm["mean"] is None:
        return ", ".join("not reached" if value is None else f"{value:.2f}" for value in values)
    deviation = f" ± {arm['std']:.2f}" if arm["std"] is not None else ""
    return f"{arm['mean']:.2f}{deviation} ({len(values)})"


def draw(record: Mapping[str, Any], path: Path) -> Path:
    """Draw a record as PNG: a dot for each run, or training and test curves, as in the paper's figure 1."""
    arms, title = record["arms"], f"{record['experiment']}: {record['verdict']}"
    if record["chart"] == "values":
        with canvas(8, 1.6 + 0.42 * len(arms)) as figure:
            ax = figure.subplots()
            for place, arm in enumerate(arms):
                found = [value for value in arm["values"] if value is not None]
                ax.plot(found, [place] * len(found), "o", color=FIRST, alpha=0.55, markersize=6, markeredgewidth=0)
                if arm["mean"] is not None:
                    ax.plot([arm["mean"]] * 2, [place - 0.28, place + 0.28], color=FIRST, linewidth=2)
            ax.set_yticks(range(len(arms)), [arm["name"] for arm in arms])
            ax.set_ylim(len(arms) - 0.5, -0.5)
            ax.set_xlabel(f"{record['measure']}; a dot is a run, a bar the mean")
            ax.set_title(title)
            return save_png(figure, path)
    pairs = [arms[i : i + 2] for i in range(0, len(arms), 2)]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    with canvas(5.2 * columns, 0.8 + 3.4 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, pair in zip(axes, pairs, strict=False):
            _draw_pair(ax, pair, losses=record["chart"] == "losses")
        for ax in axes[len(pairs) :]:
            ax.set_visible(False)
        figure.suptitle(title, x=0.012, ha="left", fontsize=13)
        return save_png(figure, path)


def _draw_pair(ax: Axes, pair: Sequence[Mapping[str, Any]], *, losses: bool) -> None:
    """Errors or losses of two arms over epochs: the first arm solid, the second dashed."""
    words = [arm["name"].split(", ") for arm in pair]
    shared = [word for word in words[0] if all(word in other for other in words)]  # the title; the rest are labels
    training, test = (1, 3) if losses else (2, 4)  # columns of a curve
    has_test = any(row[test] is not None for arm in pair for curve in arm["curves"] for row in curve)
    for arm, own, colour, style in zip(pair, words, (FIRST, SECOND), ("-", (0, (5, 2))), strict=False):
        rate = arm["settings"].get("rate")
        label = ", ".join(word for word in own if word not in shared) + (f", rate {rate:g}" if rate else "")
        for column, split, width in ((training, "training", 1.5), (test, "test", 0.8)):
            for number, curve in enumerate(arm["curves"]):
                points = [(row[0], row[column]) for row in curve if row[column] is not None]
                if points:
                    ax.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=width, alpha=0.8,
                            label=(f"{label}: {split}" if has_test else label) if number == 0 else None)  # fmt: skip
        if not losses and arm["settings"].get("stop_at"):
            ax.axhline(arm["settings"]["stop_at"], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_title(", ".join(shared))
    ax.set_xlabel("epochs")
    ax.set_ylabel(("" if has_test else "training ") + ("cross-entropy (nats)" if losses else "error (%)"))
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    ax.legend(frameon=False)
