"""The page of several runs: what differs between their settings, each setting over its seeds, and whether it helped.

A difference is claimed only if both settings have three or more seeds in common, all finished and measured on the same
images, and the 95% interval of the paired difference excludes 0. Only accuracy is tested, and each setting only against
the first, because some of many comparisons would show a difference by chance.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.colors import TABLEAU_COLORS

from alexnet.checkpoint import Run
from alexnet.curves import Line, points
from alexnet.recipes import Recipe
from alexnet.tools.html import render
from alexnet.tools.report import facts
from alexnet.tools.report.run import chart

__all__ = ["Setting", "compare", "differences", "findings", "page", "settings_of"]

FEWEST_SEEDS = 3
LONGEST_LABEL = 48  # characters
CHARTS = {
    "val_acc": ("Validation accuracy", "%"),
    "val_loss": ("Validation loss", "cross-entropy (nats)"),
    "train_acc": ("Training accuracy", "%"),
    "train_loss": ("Training loss", "cross-entropy (nats)"),
}


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, as far as it is recorded."""

    label: str
    runs: list[Run]

    @cached_property
    def finished(self) -> dict[int, Run]:
        """The finished runs by seed; if a seed ran twice, the first one."""
        return {run.recipe.seed: run for run in reversed(self.runs) if is_finished(run)}

    @property
    def diverged(self) -> list[str]:
        """The names of the runs that diverged, and that no finished run of their seed replaces."""
        return [str(run.folder) for run in self.runs if facts.diverged(run) and run.recipe.seed not in self.finished]

    @cached_property
    def results(self) -> dict[int, facts.Accuracy]:
        """The accuracy of each finished run by seed: on the test set if it was evaluated, else on validation."""
        return {seed: facts.accuracies(self.finished[seed])[0] for seed in sorted(self.finished)}

    @property
    def measured_on(self) -> str:
        return "; ".join(dict.fromkeys(accuracy.images for accuracy in self.results.values())) or "–"

    @property
    def values(self) -> list[float]:
        return [accuracy.value for accuracy in self.results.values()]

    def spread(self, loss: str = "") -> str:
        """Mean ± standard deviation over the seeds, of ``results`` or of a loss of the last row."""
        values = [run.final[loss] for run in self.finished.values() if loss in run.final] if loss else self.values
        form = ".3f" if loss else ".1f"
        deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.mean(values):{form}}{deviation}" if values else "–"


def is_finished(run: Run) -> bool:
    return run.final.get("step") == run.last_step and not facts.diverged(run) and bool(facts.accuracies(run))


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs by all that is recorded of them except the seed, in the order in which they were given.

    The commit counts only if a seed ran at several commits. So the seeds of one setting may be trained over days,
    between commits that change nothing, and a change of the code is tested with the same seeds before and after it.
    """
    keys = [json.dumps(_identity(run), sort_keys=True) for run in runs]
    if len({(key, run.recipe.seed) for key, run in zip(keys, runs, strict=True)}) < len(runs):
        keys = [key + _commit(run) for key, run in zip(keys, runs, strict=True)]
    groups: dict[str, list[Run]] = {}
    for key, run in zip(keys, runs, strict=True):
        groups.setdefault(key, []).append(run)
    labels = _labels(list(groups.values()))
    return [Setting(label, group) for label, group in zip(labels, groups.values(), strict=True)]


def _identity(run: Run) -> dict[str, Any]:
    """The settings of a run that may change its result, except the seed and the commit."""
    names = [field.name for field in dataclasses.fields(Recipe) if field.compare and field.name not in ("name", "seed")]
    recipe = {name: getattr(run.recipe, name) for name in names}
    torch = (run.config.get("versions") or {}).get("torch")
    return facts.origin_of(run) | recipe | {"max_steps": run.runtime.get("max_steps"), "torch": torch}


def _commit(run: Run) -> str:
    """The commit that the run started from."""
    return facts.parts(run)[0].get("commit") or "not recorded"


def differences(groups: Sequence[Sequence[Run]]) -> dict[str, list[Any]]:
    """What groups of runs do not have in common: a value for each group, by name."""
    known = [_identity(group[0]) | {"commit": ", ".join(dict.fromkeys(map(_commit, group)))} for group in groups]
    values = {name: [each[name] for each in known] for name in known[0]}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A short name for each group: its recipe, what differs, or its first folder; the first that is unique."""
    different = differences(groups)
    if len(different) > 1:
        different.pop("commit", None)  # it may have nothing to do with what was varied
    described = [
        ", ".join(f"{name} {facts.shown(values[i])}" for name, values in different.items()) for i in range(len(groups))
    ]
    folders = [group[0].folder.resolve().name for group in groups]
    for labels in ([group[0].recipe.name for group in groups], described, folders):
        if len(set(labels)) == len(groups) and all(0 < len(label) <= LONGEST_LABEL for label in labels):
            return labels
    return [f"{number}: {name[:LONGEST_LABEL]}" for number, name in enumerate(folders, start=1)]


def compare(first: Setting, second: Setting) -> dict[str, Any]:
    """Test whether ``second`` has another accuracy than ``first``, by Student's paired t test over their seeds.

    Returns:
        ``first`` and ``second`` (labels), ``seeds`` (those that both have finished), ``text``, and ``difference``:
        ``count``, ``mean``, ``low``, ``high`` (points) and ``p``; None if nothing can be claimed.
    """
    seeds = [seed for seed in first.results if seed in second.results]
    before, after = ([setting.results[seed].value for seed in seeds] for setting in (first, second))
    difference = None
    if reason := _no_claim(first, second, before, after):
        text = f"No claim about {second.label} and {first.label}: {reason}."
    else:
        from scipy.stats import ttest_rel

        test = ttest_rel(after, before)
        low, high = map(float, test.confidence_interval(0.95))
        mean, p = statistics.mean(after) - statistics.mean(before), float(test.pvalue)
        difference = {"count": len(seeds), "mean": mean, "low": low, "high": high, "p": p}
        said = "is better than" if low > 0 else "is worse than" if high < 0 else "is not shown to differ from"
        interval = f"{low:+.2f} to {high:+.2f}".replace("-", "−")
        text = (
            f"{second.label} {said} {first.label}: {abs(mean):.2f} points {'higher' if mean >= 0 else 'lower'} "
            f"(95% interval {interval}, paired over {len(seeds)} seeds, p = {p:.2g})."
        )
    return {"first": first.label, "second": second.label, "seeds": seeds, "difference": difference, "text": text}


def _no_claim(first: Setting, second: Setting, before: Sequence[float], after: Sequence[float]) -> str:
    """Why nothing can be claimed about two settings; empty if something can.

    Args:
        before, after: their accuracies with the seeds that both have finished.
    """
    measured = [
        (setting.finished[seed].config["data"], accuracy)
        for setting in (first, second)
        for seed, accuracy in setting.results.items()
    ]
    prints = [data.get(accuracy.name.replace("acc", "fingerprint")) for data, accuracy in measured]
    if None in prints:  # older runs recorded the fingerprint of the whole data set alone
        prints = [data.get("fingerprint") for data, _ in measured]
    images = {(data["name"], accuracy.images, each) for (data, accuracy), each in zip(measured, prints, strict=True)}
    gaps = {round(b - a, 9) for a, b in zip(before, after, strict=True)}
    lost = [name for setting in (first, second) for name in setting.diverged]
    if len(images) > 1:
        return "they were measured on different images"
    if lost:
        return f"{len(lost)} of their runs diverged"
    if len(before) < FEWEST_SEEDS:
        return f"a claim needs {FEWEST_SEEDS} seeds that each of them has finished; they share {len(before)}"
    if len(gaps) == 1:
        return f"all their seeds differ by {gaps.pop():+.2f} points, for which the test is not defined"
    return ""


def findings(settings: Sequence[Setting], comparisons: Sequence[dict[str, Any]]) -> list[str]:
    """What the runs show together, in sentences; the comparisons first."""
    found = [comparison["text"] for comparison in comparisons]
    for setting in settings:
        if (count := len(setting.values)) > 1:
            found.append(f"{setting.label}: {setting.spread()}% accuracy (mean ± standard deviation of {count} seeds).")
        for seed, times in Counter(run.recipe.seed for run in setting.runs).items():
            if times > 1:
                found.append(f"{setting.label}: seed {seed} ran {times} times, and only the first finished one counts.")
        if len(commits := dict.fromkeys(map(_commit, setting.runs))) > 1:
            found.append(f"{setting.label}: started from the commits {', '.join(commits)}, taken as the same code.")
    runs = [run for setting in settings for run in setting.runs]
    if changed := sorted({_commit(run) for run in runs if _commit(run).endswith("+")}):
        found.append(f"Uncommitted changes: the code was {', '.join(changed)}, so it may differ between runs.")
    if unfinished := [str(run.folder) for run in runs if not is_finished(run)]:
        found.append(f"Unfinished or diverged, so not part of any mean: {', '.join(unfinished)}.")
    if sum(comparison["difference"] is not None for comparison in comparisons) > 1:
        found.append("No correction for several comparisons: of twenty without an effect, about one seems to have one.")
    return found


def page(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The HTML of the page, and the findings."""
    settings = settings_of(runs)
    comparisons = [compare(settings[0], other) for other in settings[1:]]
    said = findings(settings, comparisons)
    different = differences([setting.runs for setting in settings])
    data = {
        "runs": [facts.document(run) for run in runs],
        "settings": [
            {"label": each.label, "runs": [str(run.folder) for run in each.runs], "values": each.values}
            for each in settings
        ],
        "differences": different,
        "comparisons": comparisons,
        "findings": said,
    }
    html = render(
        "comparison.html",
        settings=settings,
        findings=said,
        differences=different,
        charts=_charts(settings),
        has_chance=len({len(run.classes) for run in runs}) == 1,
        rows=[_row(run, setting) for setting in settings for run in setting.runs],
        commands=[facts.command_of(run) for run in runs],
        data=data,
        look=look,
        shown=facts.shown,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    return html, said


def look(number: int) -> tuple[str, str]:
    """The colour and the line style of a setting, numbered from 0; the colours are matplotlib's ten."""
    colours = [str(colour) for colour in TABLEAU_COLORS.values()]
    return colours[number % len(colours)], ("solid", "dashed", "dotted")[number // len(colours) % 3]


def _charts(settings: Sequence[Setting]) -> list[dict[str, str]]:
    charts = []
    counts = {len(run.classes) for setting in settings for run in setting.runs}
    classes = max(counts) if len(counts) == 1 else 0
    for metric, (title, unit) in CHARTS.items():
        lines = []
        for number, setting in enumerate(settings):
            colour, style = look(number)
            found = [points(run.rows, "epoch", metric) for run in setting.runs]
            lines += [Line(each, colour, style=style) for each in found if each]
        if lines:
            svg = chart(title, lines, "epoch", metric, classes)
            charts.append({"title": title, "unit": unit, "caption": "", "svg": svg})
    return charts


def _row(run: Run, setting: Setting) -> dict[str, Any]:
    """A row of the table of runs."""
    first = next(iter(facts.accuracies(run)), None)
    return {
        "setting": setting.label,
        "run": str(run.folder),
        "seed": run.recipe.seed,
        "step": f"{run.step:,}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{run.last_step:,}",
        "accuracy": f"{first.value:.1f}%" if first else "–",
        "interval": first.range if first else "",
        "images": first.images if first else "",
        "commit": _commit(run),
    }
