"""From the values of an experiment's arms to a verdict and a sentence, by a rule that is fixed before the runs.

A rule is a list of comparisons. Each takes two arms, one of which is better if the claim is true, and the difference
of their values for each seed (or their ratio, as a difference of logarithms). Its 95% confidence interval (Student's
paired t) says whether there is an effect, and ``least``, half of the paper's number if there is one, whether it is
large enough:

    reproduced       the interval is above 0, and the mean is at least ``least``
    partly           the interval is above 0, and the mean is below ``least``
    not reproduced   the interval reaches 0 or below, and ends below ``least``
    too few runs     the interval contains both, or there are fewer than three seeds

If all comparisons agree, the verdict is theirs. Otherwise it is ``partly`` if any is reproduced or partly, and ``too
few runs`` if none is.

A value that was not reached counts as ``limit``, where the run ended, and the mean is then an "at least" or "at most".
A seed is left out if neither arm has a value, or if one has none and the rule has no limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Comparison", "Finding", "Values", "compare", "judge"]

MIN_SEEDS = 3

Verdict = Literal["reproduced", "partly", "not reproduced", "too few runs"]
Values = Mapping[str, Mapping[str, Sequence[float | None]]]
"""By arm and measure: a value for each seed, with the seeds in the same order for all arms."""


@dataclass(frozen=True)
class Comparison:
    """The claim that one arm has a lower value than another."""

    better: str
    worse: str
    measure: str
    least: float
    """The smallest difference, or ratio, that supports the claim."""
    paper: str
    """The paper's number, in words."""
    ratio: bool = False
    """Compare ``worse / better`` instead of ``worse − better``."""
    limit: float | Literal["end"] | None = None
    """What a value that was not reached counts as. ``end``: the epochs of the runs."""
    decides: bool = True
    """Whether it is part of the verdict, or only reported."""


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


def compare(comparison: Comparison, values: Values) -> Finding:
    """One comparison, over the seeds for which both arms have been run."""
    c = comparison
    arms = f"{c.worse} {'/' if c.ratio else '−'} {c.better}, {c.measure}"
    seeds = list(zip(values[c.better][c.measure], values[c.worse][c.measure], strict=False))
    pairs = [pair for pair in seeds if pair.count(None) < (1 if c.limit is None else 2)]
    if seeds and not pairs and c.limit is not None:
        return Finding("too few runs", f"{arms}: reached by neither in {c.limit:g}")
    if len(pairs) < MIN_SEEDS:
        missing = f" with values, of {len(seeds)}" if len(pairs) < len(seeds) else ""
        return Finding("too few runs", f"{arms}: {len(pairs)} seeds{missing}; at least {MIN_SEEDS} are needed")
    lowest = min(value for pair in pairs for value in pair if value is not None)
    if c.ratio and lowest <= 0:
        return Finding("too few runs", f"{arms}: no ratio can be taken of {lowest:g}")

    scale = math.log if c.ratio else float
    better, worse = ([scale(c.limit if pair[arm] is None else pair[arm]) for pair in pairs] for arm in (0, 1))  # type: ignore[arg-type]
    mean, low, high = _paired_difference(better, worse)
    if low > 0:
        word: Verdict = "reproduced" if mean >= scale(c.least) else "partly"
    else:
        word = "not reproduced" if high < scale(c.least) else "too few runs"
    if c.ratio:
        mean, low, high = math.exp(mean), math.exp(low), math.exp(high)
    better_cut, worse_cut = (any(pair[arm] is None for pair in pairs) for arm in (0, 1))
    bound = "roughly " if better_cut and worse_cut else "at most " if better_cut else "at least " if worse_cut else ""
    form = "{:.2f} (95%: {:.2f} to {:.2f})" if c.ratio else "{:+.2f} (95%: {:+.2f} to {:+.2f})"
    sentence = f"{arms}: {bound}{form.format(mean, low, high)}; the paper: {c.paper}"
    return Finding(word, sentence, mean, low, high)


def _paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """The mean of ``second − first`` and its 95% confidence interval."""
    from scipy import stats

    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, error = sum(differences) / len(differences), float(stats.sem(differences))
    if error == 0:  # the interval of scipy is NaN then
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)
