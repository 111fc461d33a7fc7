"""The record of an experiment: the values of its runs, the verdict, the text on a terminal and the picture.

Each comparison of the rule takes two arms, one of which is better if the claim is true, and the differences of their
values seed by seed (or their ratios, as differences of logarithms). The 95% confidence interval of the mean (Student's
t) says whether there is an effect, and ``least``, half of the paper's number if it has one, whether it is large enough:

    reproduced       the interval is above 0, and the mean is at least ``least``
    partly           the interval is above 0, and the mean is below ``least``
    not reproduced   the interval reaches 0 or below, and ends below ``least``
    too few runs     the interval contains both, or there are fewer than three seeds

If the comparisons disagree, the verdict is ``partly`` if any is reproduced or partly, and ``too few runs`` if none is.
A value that was not reached counts as ``limit``, where the run ended, and the mean is then an "at least" or "at most".
A seed is left out if neither arm has a value, or if one has none and the rule has no limit.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from alexnet.checkpoint import write_atomically
from alexnet.curves import COLOURS, canvas, save_png
from alexnet.recipes import flags
from alexnet.tools.reproduce.experiments import WIDTH, Arm, Comparison, Experiment, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Finding", "compare", "draw", "format_record", "judge", "make_record", "published", "settings_of", "spread",
    "write_json",
]  # fmt: skip

MIN_SEEDS = 3

Verdict = Literal["reproduced", "partly", "not reproduced", "too few runs"]
Values = Mapping[str, Mapping[str, Sequence[float | None]]]
"""By arm and measure: a value for each seed, with the seeds in the same order for all arms."""
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The result.json of the runs of each arm."""


# --- the verdict


@dataclass(frozen=True)
class Finding:
    """The result of a comparison."""

    word: Verdict
    sentence: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    """The mean difference or ratio and its 95% confidence interval."""


def judge(rule: Sequence[Comparison], values: Values) -> tuple[Verdict, list[Finding]]:
    """The verdict, and the findings of all comparisons in their order."""
    findings = [compare(comparison, values) for comparison in rule]
    words = {finding.word for finding, comparison in zip(findings, rule, strict=True) if comparison.decides}
    if len(words) == 1:
        return words.pop(), findings
    return ("partly" if words & {"reproduced", "partly"} else "too few runs"), findings


def compare(c: Comparison, values: Values) -> Finding:
    """One comparison, seed by seed. A limit of ``end`` must have been replaced by its number."""
    arms = f"{c.worse} {'/' if c.ratio else '−'} {c.better}, {c.measure}"
    seeds = list(zip(values[c.better][c.measure], values[c.worse][c.measure], strict=True))
    pairs = [pair for pair in seeds if pair.count(None) < (1 if c.limit is None else 2)]
    if len(pairs) < MIN_SEEDS:
        return Finding("too few runs", f"{arms}: {len(pairs)} of {len(seeds)} seeds with values; {MIN_SEEDS} needed")
    reached = np.array([[c.limit if value is None else value for value in pair] for pair in pairs], float)
    if c.ratio and reached.min() <= 0:
        return Finding("too few runs", f"{arms}: no ratio can be taken of {reached.min():g}")

    better, worse = (np.log(reached) if c.ratio else reached).T
    mean, half = (worse - better).mean(), stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(worse - better)
    least = np.log(c.least) if c.ratio else c.least
    if mean - half > 0:
        word: Verdict = "reproduced" if mean >= least else "partly"
    else:
        word = "not reproduced" if mean + half < least else "too few runs"
    interval = [float(np.exp(each) if c.ratio else each) for each in (mean, mean - half, mean + half)]
    better_cut, worse_cut = (any(pair[arm] is None for pair in pairs) for arm in (0, 1))
    bound = "roughly " if better_cut and worse_cut else "at most " if better_cut else "at least " if worse_cut else ""
    form = "{:.2f} (95%: {:.2f} to {:.2f})" if c.ratio else "{:+.2f} (95%: {:+.2f} to {:+.2f})"
    return Finding(word, f"{arms}: {bound}{form.format(*interval)}; the paper: {c.paper}", *interval)


# --- the record


def make_record(
    experiment: Experiment,
    arms: Mapping[str, Settings],
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
    names = [measure.name for measure in experiment.measures]
    values = {arm: {name: [run["values"][name] for run in runs] for name in names} for arm, runs in results.items()}
    entries = [
        _arm_entry(experiment, arm, arms[arm.name], results[arm.name], values[arm.name], sweeps.get(arm.name, ()))
        for arm in experiment.arms
    ]
    rule = list(experiment.rule)
    for place, each in enumerate(rule):
        if each.limit == "end":
            end = min(arms[each.better].epochs, arms[each.worse].epochs)
            rule[place] = dataclasses.replace(each, limit=end)
    verdict, findings = judge(rule, values)
    seeds, data = len(entries[0]["seeds"]), plan["data"]
    reason = "; ".join(finding.sentence for finding in findings)
    scope = "at the paper's size" if plan["full"] else experiment.short
    reason += f". {data['name']}, {seeds} seed{'s' * (seeds != 1)}; {scope}."
    if data["spec"] == "digits":  # ten shapes of 8×8 pixels
        reason = f"Digits cannot settle a claim about photographs. By the rule: {verdict}. {reason}"
        verdict = "too few runs"
    return {
        "kind": "reproduce",
        "experiment": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "measure": names[0],
        "chart": experiment.chart,
        "arms": entries,
        "verdict": verdict,
        "reason": reason,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "command": _command(experiment, plan, seeds),
        "full": plan["full"],
        **{name: plan[name] for name in ("data", "device", "precision", "hardware", "versions", "commit", "date")},
        "seconds": round(sum(run["seconds"] for runs in (*results.values(), *sweeps.values()) for run in runs), 1),
    }


def _arm_entry(
    experiment: Experiment,
    arm: Arm,
    settings: Settings,
    runs: Sequence[Mapping[str, Any]],
    values: Mapping[str, Sequence[float | None]],
    sweep: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the record has of an arm."""
    first, *others = values
    reached = [value for value in values[first] if value is not None]
    complete = len(reached) == len(runs)  # without a value that was not reached, the mean would be too good
    entry = {
        "name": arm.name,
        "settings": settings_of(arm, settings),
        "seeds": [run["seed"] for run in runs],
        "values": values[first],
        "mean": statistics.mean(reached) if complete else None,
        "std": statistics.stdev(reached) if complete and len(reached) > 1 else None,
        "also": {name: values[name] for name in others},
        "images_per_sec": round(max(run["images_per_sec"] for run in runs)),
    }
    if sweep:
        entry["sweep"] = [
            {"rate": point["rate"], "value": point["values"][first]}
            | {name: point[name] for name in ("epochs", "training_error")}
            for point in sweep
        ]
    if experiment.chart != "values":
        entry["curves"] = [run["curve"] for run in runs]
    return entry


def _command(experiment: Experiment, plan: Mapping[str, Any], seeds: int) -> str:
    """The command that runs the experiment again."""
    words = ["alexnet", "reproduce", experiment.file or experiment.name, *flags("data", plan["data"]["spec"])]
    words += flags("full", True) if plan["full"] else []
    words += flags("seeds", seeds) if seeds != experiment.seeds else []
    return shlex.join(words)


def published(spec: str) -> str:
    """The data as a record names them: a folder, whose path helps nobody else, is FOLDER."""
    return spec if spec in ("cifar10", "digits") or spec.startswith("hf:") else "FOLDER"


def settings_of(arm: Arm, settings: Settings) -> dict[str, Any]:
    """What decides the arm's values besides the seed and the data, as JSON has it."""
    fields = dataclasses.asdict(settings)
    if arm.max_steps:
        fields["max_steps"] = arm.max_steps
    if arm.tta != "center":
        fields["views"] = arm.tta
    return {name: value for name, value in json.loads(json.dumps(fields)).items() if name not in ("seed", "data")}


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
    if arm["mean"] is None:
        return ", ".join("not reached" if value is None else f"{value:.2f}" for value in arm["values"])
    deviation = f" ± {arm['std']:.2f}" if arm["std"] is not None else ""
    return f"{arm['mean']:.2f}{deviation} ({len(arm['values'])})"


# --- the picture


def draw(record: Mapping[str, Any], path: Path) -> Path:
    """Draw a record as PNG: a dot for each run, or training and test curves, as in the paper's figure 1."""
    arms, title = record["arms"], f"{record['experiment']}: {record['verdict']}"
    if record["chart"] == "values":
        with canvas(8, 1.6 + 0.42 * len(arms)) as figure:
            ax, blue = figure.subplots(), COLOURS["train"]
            for place, arm in enumerate(arms):
                found = [value for value in arm["values"] if value is not None]
                ax.plot(found, [place] * len(found), "o", color=blue, alpha=0.55, markersize=6, markeredgewidth=0)
                if arm["mean"] is not None:
                    ax.plot([arm["mean"]] * 2, [place - 0.28, place + 0.28], color=blue, linewidth=2)
            ax.set_yticks(range(len(arms)), [arm["name"] for arm in arms])
            ax.set(ylim=(len(arms) - 0.5, -0.5), xlabel=f"{record['measure']}; a dot is a run, a bar the mean")
            ax.set_title(title)
            return save_png(figure, path)
    pairs = [arms[i : i + 2] for i in range(0, len(arms), 2)]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    with canvas(5.2 * columns, 0.8 + 3.4 * rows) as figure:
        for place, pair in enumerate(pairs, start=1):
            _draw_pair(figure.add_subplot(rows, columns, place), pair, losses=record["chart"] == "losses")
        figure.suptitle(title, x=0.012, ha="left", fontsize=13)
        return save_png(figure, path)


def _draw_pair(ax: Axes, pair: Sequence[Mapping[str, Any]], *, losses: bool) -> None:
    """Errors or losses of two arms over epochs: the first arm solid, the second dashed."""
    words = [arm["name"].split(", ") for arm in pair]
    shared = [word for word in words[0] if all(word in other for other in words)]  # the title; the rest are labels
    training, test = (1, 3) if losses else (2, 4)  # columns of a curve
    has_test = any(row[test] is not None for arm in pair for curve in arm["curves"] for row in curve)
    styles = ((COLOURS["train"], "-"), (COLOURS["validation"], (0, (5, 2))))
    for arm, own, (colour, style) in zip(pair, words, styles, strict=False):
        rate = arm["settings"].get("rate")
        label = ", ".join(word for word in own if word not in shared) + (f", rate {rate:g}" if rate else "")
        for column, split, width in ((training, "training", 1.5), (test, "test", 0.8)):
            name = f"{label}: {split}" if has_test else label
            for curve in arm["curves"]:
                points = [(row[0], row[column]) for row in curve if row[column] is not None]
                if points:
                    ax.plot(*zip(*points, strict=True), color=colour, ls=style, lw=width, alpha=0.8, label=name)
                    name = "_"  # one entry in the legend
        if not losses and arm["settings"].get("stop_at"):
            ax.axhline(arm["settings"]["stop_at"], color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set(title=", ".join(shared), xlabel="epochs", xlim=(0, None), ylim=(0, None))
    ax.set_ylabel(("" if has_test else "training ") + ("cross-entropy (nats)" if losses else "error (%)"))
    ax.legend(frameon=False)
