"""Several runs side by side: what differs in their settings, each setting's seeds, and whether a change helped.

A claim needs three seeds that both settings have, all at their end, and a 95% interval of the paired difference that
leaves out 0. Accuracy alone is tested, and of all settings against the first one, so that nothing is looked for long
enough to be found.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet.recipes import Recipe
from alexnet.report.intervals import FEWEST, PairedDifference, paired_difference
from alexnet.report.record import Figure, Record, shown

__all__ = ["Comparison", "Setting", "compare", "differences", "findings", "settings_of"]

# Of the recipe's fields, those that do not make another setting, or that the config gives as what they came to.
_ASIDE = {
    "name", "seed", "max_steps", "tracker", "save_every",
    "data", "data_dir", "device", "precision", "loader", "compile",
}  # fmt: skip
_LONGEST = 48  # characters of a setting's label


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, as far as is recorded."""

    label: str
    runs: tuple[Record, ...]

    @property
    def at_end(self) -> dict[Any, Record]:
        """The runs at their end, by seed; of a seed that ran twice, the first one named."""
        found: dict[Any, Record] = {}
        for run in self.runs:
            if run.finished and not run.diverged and run.figures():
                found.setdefault(run.seed, run)
        return found

    @property
    def judged(self) -> dict[Any, Figure]:
        """The figure of each of them."""
        return {seed: run.figures()[0] for seed, run in self.at_end.items()}

    @property
    def values(self) -> list[float]:
        return [figure.value for figure in self.judged.values()]

    def spread(self, key: str = "") -> str:
        """``mean ± standard deviation`` over the seeds of ``key`` in the last rows; by default of the judged figure."""
        ends = [run.final for run in self.at_end.values()]
        values = [row[key] for row in ends if row.get(key) is not None] if key else self.values
        digits = 3 if key.endswith("loss") else 2
        if not values:
            return "–"
        mean = f"{statistics.mean(values):.{digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


@dataclass(frozen=True)
class Comparison:
    """A setting against the first one."""

    first: Setting
    second: Setting
    seeds: tuple[Any, ...]
    """Those that both have, at their end."""
    difference: PairedDifference | None
    """None where the seeds are too few for a claim, or the images not the same."""
    text: str


def settings_of(records: Sequence[Record]) -> list[Setting]:
    """The runs grouped by all that is recorded but their seed, in the order in which they were named.

    The commit tells settings apart only where a seed ran from several: seeds that were trained over days, between
    commits that did not matter, stay together, and a change of the code is judged by the same seeds before and after.
    """
    groups: list[list[Record]] = []
    for runs in _grouped(records, _identity):
        seeds = [run.seed for run in runs]
        groups += _grouped(runs, _commit) if len(set(seeds)) < len(seeds) else [runs]
    return [Setting(label, tuple(group)) for label, group in zip(_labels(groups), groups, strict=True)]


def differences(settings: Sequence[Setting]) -> dict[str, list[Any]]:
    """What the settings do not share: a value for each of them, by name."""
    return _differences([setting.runs for setting in settings])


def compare(settings: Sequence[Setting]) -> list[Comparison]:
    """Each setting against the first."""
    return [_compare(settings[0], other) for other in settings[1:]]


def findings(settings: Sequence[Setting], comparisons: Sequence[Comparison]) -> list[str]:
    """What the runs say together, in sentences: the answer to "did it help?" first, if that is what was asked."""
    found = [comparison.text for comparison in comparisons]
    if len(settings) == 1:
        found.append("The runs have one setting: nothing that is compared differs between them but the seed.")
    for setting in settings:
        if len(setting.judged) > 1:
            found.append(
                f"{setting.label}: {setting.spread()}% (mean ± standard deviation, n = {len(setting.judged)})."
            )
        for seed, times in Counter(run.seed for run in setting.runs).items():
            if times > 1:
                found.append(
                    f"{setting.label}: seed {seed} ran {times} times, and only the first counts. If their figures "
                    "differ, the cause is not recorded: changes that no commit has, or sums in no fixed order."
                )
    found += _of_the_code(settings)
    late = [run.name for setting in settings for run in setting.runs if not run.finished or run.diverged]
    if late:
        found.append(f"Not at their end, or diverged, so no part of any mean: {', '.join(late)}.")
    if len(comparisons) > 1 and any(comparison.difference for comparison in comparisons):
        found.append("Each comparison is at 95% by itself: of twenty in which nothing differs, one is wrong by chance.")
    return found


def _of_the_code(settings: Sequence[Setting]) -> list[str]:
    """What to know where the code was not one known commit."""
    found, told = [], []
    for setting in settings:
        if len(commits := _commits(setting.runs)) > 1:
            parts = [f"{commit} seed{_seeds(seeds)}" for commit, seeds in commits.items()]
            told.append(f"{setting.label}: {'; '.join(parts)}")
    if told:
        found.append(
            f"Runs of one setting began from several commits ({', '.join(told)}). That is taken for no difference, "
            "since no seed ran from two; to compare commits, give them the same seeds."
        )
    if loose := sorted({commit for s in settings for commit in _commits(s.runs) if commit.endswith("+")}):
        found.append(
            f"The code was commit {' or '.join(loose)} (+: with changes that were never committed), so it may differ "
            "between runs of one commit too."
        )
    return found


def _compare(first: Setting, second: Setting) -> Comparison:
    ours, theirs = first.judged, second.judged
    seeds = tuple(seed for seed in ours if seed in theirs)
    names = f"{second.label} against {first.label}"
    missing = [setting.label for setting in (first, second) if not setting.judged]
    if missing:
        text = f"No claim on {names}: no run of {' or of '.join(missing)} is at its end."
        return Comparison(first, second, seeds, None, text)
    if len({_images(setting) for setting in (first, second)}) > 1:
        text = f"{names}: not compared, for their data are not, or not known to be, the same."
        return Comparison(first, second, seeds, None, text)
    if len(seeds) < FEWEST:
        gap = statistics.mean(second.values) - statistics.mean(first.values)
        told = f"its mean is {_points(gap)}, over {_runs(second)} and {_runs(first)}"
        if len(ours) == len(theirs) == 1:
            told = f"it is {_points(gap)}, one run each"
        text = f"No claim on {names}: {told}. Another seed may move it as much: "
        text += f"a claim needs {FEWEST} seeds that both have, and {_have(seeds)}."
        return Comparison(first, second, seeds, None, text)
    found = paired_difference([ours[seed].value for seed in seeds], [theirs[seed].value for seed in seeds])
    interval = f"{found.low:+.2f} to {found.high:+.2f}".replace("-", "−")
    told = f"95% interval {interval}, paired over {found.count} seeds, p = {found.p:.2g}"
    if found.low > 0 or found.high < 0:
        text = f"{second.label} is {'better' if found.mean > 0 else 'worse'} than {first.label}: {_points(found.mean)}"
    else:
        text = f"{second.label} is not shown to differ from {first.label}: {_points(found.mean)}"
    return Comparison(first, second, seeds, found, f"{text} ({told}).")


def _points(gap: float) -> str:
    return f"{abs(gap):.2f} points {'higher' if gap >= 0 else 'lower'}"


def _runs(setting: Setting) -> str:
    count = len(setting.judged)
    return f"{count} seed{'s' * (count > 1)}"


def _have(seeds: Sequence[Any]) -> str:
    if not seeds:
        return "they have none in common"
    return f"they have seed{_seeds(seeds)}"


def _seeds(seeds: Sequence[Any]) -> str:
    return f"{'s' * (len(seeds) > 1)} {', '.join(map(shown, seeds))}"


def _images(setting: Setting) -> str:
    """Which images judged it."""
    run = next(iter(setting.at_end.values()))
    figure = run.figures()[0]
    return repr((run.data.get("name"), run.data.get("fingerprint"), figure.split, figure.count))


def _identity(record: Record) -> dict[str, Any]:
    """All that is recorded of a run and may change its figures, but the seed."""
    recipe = dataclasses.asdict(Recipe()) | record.settings
    versions, data = record.config.get("versions"), record.data
    return {
        "data": data.get("name"),
        "counts": ", ".join(f"{name} {data[name]}" for name in ("train", "val", "test") if data.get(name)),
        "fingerprint": data.get("fingerprint"),
        "validated on": data.get("val_split"),
        **{name: value for name, value in recipe.items() if name not in _ASIDE},
        "last step": record.last_step,
        **{name: record.config.get(name) for name in ("device", "precision", "loader", "compiled", "lrn", "processes")},
        "torch": versions.get("torch") if isinstance(versions, dict) else None,
    }


def _commit(record: Record) -> str:
    """The commit that the run began with."""
    return record.parts[0].commit


def _grouped(records: Sequence[Record], by: Callable[[Record], Any]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(by(record), sort_keys=True), []).append(record)
    return list(groups.values())


def _commits(runs: Sequence[Record]) -> dict[str, list[Any]]:
    """The commits that runs began with, each with its seeds."""
    found: dict[str, list[Any]] = {}
    for run in runs:
        found.setdefault(_commit(run), []).append(run.seed)
    return found


def _differences(groups: Sequence[Sequence[Record]]) -> dict[str, list[Any]]:
    identities = [_identity(runs[0]) | {"commit": ", ".join(_commits(runs))} for runs in groups]
    names = dict.fromkeys(name for identity in identities for name in identity)
    values = {name: [identity.get(name) for identity in identities] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _labels(groups: Sequence[Sequence[Record]]) -> list[str]:
    """A short name for each group: its recipe, what differs, or its first folder; the first that tells them apart."""
    different = _differences(groups)

    def without(*names: str) -> list[str]:
        kept = {name: values for name, values in different.items() if name not in names}
        return [", ".join(f"{name} {shown(values[i])}" for name, values in kept.items()) for i in range(len(groups))]

    folders = [group[0].name for group in groups]
    # The last step follows from another setting, mostly; the commit need not have to do with what was varied.
    recipes, changed = [group[0].recipe for group in groups], (("last step", "commit"), ("last step",), ())
    for labels in (recipes, *(without(*names) for names in changed), folders):
        if len(set(labels)) == len(groups) and all(0 < len(label) <= _LONGEST for label in labels):
            return labels
    # Two folders of one name, or a very long one: a number tells them apart.
    return [f"{number}: {_short(name)}" for number, name in enumerate(folders, start=1)]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 3 :]}"
