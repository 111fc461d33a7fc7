"""The page of several runs: what differs between their settings, each setting over its seeds, and whether it helped.

A difference is claimed only if both settings have three or more seeds in common, all finished and measured on the same
images, and the 95% interval of the paired difference excludes 0. Only accuracy is tested, and each setting only against
the first, so that nothing is found by searching long enough.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alexnet.checkpoint import Run
from alexnet.curves import canvas
from alexnet.recipes import Recipe
from alexnet.tools.html import Chart, inline_svg, render
from alexnet.tools.plots import CYCLE, Line, draw_lines, points
from alexnet.tools.report.run import Accuracy, accuracies, command_of, diverged, document, last_step, parts, shown

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

    @cached_property
    def results(self) -> dict[int, Accuracy]:
        """The accuracy of each finished run by seed: on the test set if it was evaluated, else on validation."""
        return {seed: accuracies(self.finished[seed])[0] for seed in sorted(self.finished)}

    @property
    def values(self) -> list[float]:
        return [accuracy.value for accuracy in self.results.values()]

    def spread(self, metric: str = "") -> str:
        """Mean ± standard deviation over the seeds of a metric of the last row; by default of ``results``."""
        final = [run.final.get(metric) for run in self.finished.values()]
        values = [value for value in final if value is not None] if metric else self.values
        form = ".3f" if metric.endswith("loss") else ".1f"
        deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.mean(values):{form}}{deviation}" if values else "–"


def is_finished(run: Run) -> bool:
    return run.final.get("step") == last_step(run) and not diverged(run) and bool(accuracies(run))


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs by all that is recorded of them except the seed, in the order in which they were given.

    The commit separates settings only if a seed ran from several commits. So the seeds of one setting may be trained
    over days, between commits that change nothing, and a change of the code is tested with the same seeds before and
    after it.
    """
    groups: list[list[Run]] = []
    for alike in _grouped(runs, _identity):
        seeds = {run.recipe.seed for run in alike}
        groups += _grouped(alike, _commit) if len(seeds) < len(alike) else [alike]
    return [Setting(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def _grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def _identity(run: Run) -> dict[str, Any]:
    """All that is recorded of a run and may change its result, except the seed and the commit."""
    config, data = run.config, run.config["data"]
    names = [field.name for field in dataclasses.fields(Recipe) if field.compare]
    return {
        "data": data["name"],
        "images of data": ", ".join(f"{data[key]:,} {key}" for key in ("train", "val", "test") if data.get(key)),
        "fingerprint": data.get("fingerprint"),
        "validation split": data["val_split"],
        **{name: getattr(run.recipe, name) for name in names if name not in ("name", "seed")},
        "last step": last_step(run),
        **{name: config.get(name) for name in ("device", "precision", "loader", "compiled", "lrn", "processes")},
        "torch": (config.get("versions") or {}).get("torch"),
    }


def _commit(run: Run) -> str:
    """The commit that the run started from."""
    return parts(run)[0].get("commit") or "not recorded"


def differences(groups: Sequence[Sequence[Run]]) -> dict[str, list[Any]]:
    """What groups of runs do not have in common: a value for each group, by name."""
    facts = [_identity(group[0]) | {"commit": ", ".join(dict.fromkeys(map(_commit, group)))} for group in groups]
    values = {name: [each[name] for each in facts] for name in facts[0]}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A short name for each group: its recipe, what differs, or its first folder; the first that is unique."""
    different = differences(groups)
    folders = [group[0].folder.resolve().name for group in groups]

    def values(*without: str) -> list[str]:
        names = [name for name in different if name not in without]
        return [", ".join(f"{name} {shown(different[name][i])}" for name in names) for i in range(len(groups))]

    # The last step mostly follows from another setting, and the commit may have nothing to do with what was varied.
    for labels in ([g[0].recipe.name for g in groups], values("last step", "commit"), values("last step"), folders):
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
    found: dict[str, Any] = {"first": first.label, "second": second.label, "seeds": seeds, "difference": None}
    claim = f"No claim about {second.label} and {first.label}"
    if missing := [setting.label for setting in (first, second) if not setting.results]:
        return found | {"text": f"{claim}: no run of {' or '.join(missing)} has finished."}
    if _measured_on(first) != _measured_on(second):
        return found | {"text": f"{claim}: they were measured on different images."}
    if len(seeds) < FEWEST_SEEDS:
        gap = statistics.mean(second.values) - statistics.mean(first.values)
        counts = f"the mean of {len(second.values)} against that of {len(first.values)}"
        return found | {
            "text": f"{claim}: {second.label} is {_points(gap)} ({counts}), and another seed may change as much. A "
            f"claim needs {FEWEST_SEEDS} seeds that both have; they share {len(seeds)}."
        }
    before, after = ([setting.results[seed].value for seed in seeds] for setting in (first, second))
    mean, low, high, p = _paired_difference(before, after)
    said = "is better than" if low > 0 else "is worse than" if high < 0 else "is not shown to differ from"
    interval = f"{low:+.2f} to {high:+.2f}".replace("-", "−")
    return found | {
        "difference": {"count": len(seeds), "mean": mean, "low": low, "high": high, "p": p},
        "text": f"{second.label} {said} {first.label}: {_points(mean)} (95% interval {interval}, paired over "
        f"{len(seeds)} seeds, p = {p:.2g}).",
    }


def _paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float, float]:
    """The mean of ``after`` − ``before``, its 95% interval, and the two-sided p."""
    from scipy.stats import ttest_rel

    gaps = [b - a for a, b in zip(before, after, strict=True)]
    mean = statistics.mean(gaps)
    if statistics.stdev(gaps) < 1e-9:  # all the same, for which the test is not defined
        return mean, mean, mean, float(abs(mean) < 1e-9)
    test = ttest_rel(after, before)
    interval = test.confidence_interval(0.95)
    return mean, float(interval.low), float(interval.high), float(test.pvalue)


def _measured_on(setting: Setting) -> tuple[Any, ...]:
    run = next(iter(setting.finished.values()))
    first, data = accuracies(run)[0], run.config["data"]
    return data["name"], data.get("fingerprint"), first.split, first.count


def _points(gap: float) -> str:
    return f"{abs(gap):.2f} points {'higher' if gap >= 0 else 'lower'}"


def findings(settings: Sequence[Setting], comparisons: Sequence[dict[str, Any]]) -> list[str]:
    """What the runs show together, in sentences; the comparisons first."""
    found = [comparison["text"] for comparison in comparisons]
    if len(settings) == 1:
        found.append("All runs have the same setting: nothing that is recorded differs except the seed.")
    for label, setting in ((setting.label, setting) for setting in settings):
        if (count := len(setting.values)) > 1:
            found.append(f"{label}: {setting.spread()}% accuracy (mean ± standard deviation of {count} seeds).")
        for seed, times in Counter(run.recipe.seed for run in setting.runs).items():
            if times > 1:
                found.append(f"{label}: seed {seed} ran {times} times, and only the first run counts.")
        if len(commits := dict.fromkeys(map(_commit, setting.runs))) > 1:
            found.append(f"{label}: its runs started from the commits {', '.join(commits)}, taken as the same code.")
    every = [run for setting in settings for run in setting.runs]
    if changed := sorted({_commit(run) for run in every if _commit(run).endswith("+")}):
        found.append(f"Uncommitted changes: the code was {', '.join(changed)}, so it may differ between runs.")
    if unfinished := [run.folder.resolve().name for run in every if not is_finished(run)]:
        found.append(f"Unfinished or diverged, so not part of any mean: {', '.join(unfinished)}.")
    if sum(comparison["difference"] is not None for comparison in comparisons) > 1:
        found.append("Each comparison is at 95% by itself: of twenty without an effect, one seems to have one.")
    return found


def page(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The HTML of the page, and the findings."""
    settings = settings_of(runs)
    comparisons = [compare(settings[0], other) for other in settings[1:]]
    said = findings(settings, comparisons)
    different = differences([setting.runs for setting in settings])
    data = {
        "runs": [document(run) for run in runs],
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
        rows=[_row(run, setting) for setting in settings for run in setting.runs],
        commands=[command_of(run) for run in runs],
        data=data,
        look=look,
        shown=shown,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    return html, said


def look(number: int) -> tuple[str, str]:
    """The colour and the line style of a setting, numbered from 0."""
    return CYCLE[number % len(CYCLE)], ("solid", "dashed", "dotted")[number // len(CYCLE) % 3]


def _charts(settings: Sequence[Setting]) -> list[Chart]:
    charts: list[Chart] = []
    counts = {len(run.classes) for setting in settings for run in setting.runs}
    classes = counts.pop() if len(counts) == 1 else 0
    for metric, (title, unit) in CHARTS.items():
        lines = []
        for number, setting in enumerate(settings):
            colour, style = look(number)
            found = [points(run.rows, "epoch", metric) for run in setting.runs]
            lines += [Line(each, colour, style=style) for each in found if each]
        if lines:
            with canvas(5.2, 3.3) as figure:
                draw_lines(figure.subplots(), lines, "epoch", metric, classes)
                svg = inline_svg(figure, f"chart-{len(charts)}", f"{title} of {len(lines)} runs")
            charts.append(Chart(title, unit, "", svg))
    return charts


def _row(run: Run, setting: Setting) -> dict[str, Any]:
    """A row of the table of runs."""
    first = accuracies(run)[0] if accuracies(run) else None
    return {
        "setting": setting.label,
        "run": run.folder.resolve().name,
        "seed": run.recipe.seed,
        "step": f"{run.step:,}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{last_step(run):,}",
        "accuracy": first or "–",
        "interval": "{:.1f} to {:.1f}%".format(*first.interval) if first else "",
        "images": first.images if first else "",
        "commit": _commit(run),
    }
