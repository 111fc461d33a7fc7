"""From the values of an experiment's arms to one word and one sentence, by rules that are fixed before the runs.

A rule is a list of comparisons. Each takes two arms, of which the claim says that one is better, and the difference of
their values seed by seed (or the ratio, as a difference of logarithms). Its 95% confidence interval, from Student's t,
says whether there is an effect; ``least``, half of the paper's figure where there is one, whether it is large enough:

    reproduced       the interval lies above 0 and the mean is ``least`` or more
    partly           the interval lies above 0 and the mean is below ``least``
    not reproduced   the interval reaches 0 or below and ends before ``least``
    too few runs     the interval holds both, or there are fewer than three seeds

Several comparisons that agree give their word; otherwise it is ``partly`` where any of them is reproduced or partly,
and ``too few runs`` where none is.

A value that was not reached counts as ``limit``, where the run was ended, and the mean is told as "at least" or "at
most". A seed in which neither arm has a value, or one has none and the rule has no limit, says nothing and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet.report.intervals import FEWEST, paired_difference

__all__ = ["Comparison", "Finding", "Values", "Word", "compare", "judge"]

Word = Literal["reproduced", "partly", "not reproduced", "too few runs"]
Values = Mapping[str, Mapping[str, Sequence[float | None]]]
"""By arm and measure: a value a seed, in one order of seeds for all arms."""


@dataclass(frozen=True)
class Comparison:
    """The claim that one arm has a lower value than another."""

    better: str
    worse: str
    measure: str
    least: float
    """The smallest difference, or ratio, that bears the claim out."""
    paper: str
    """The paper's figure, in words."""
    ratio: bool = False
    """Compare ``worse / better`` in place of ``worse − better``."""
    limit: float | Literal["end"] | None = None
    """What a value that was not reached counts as, at least. ``end``: the epochs of the runs."""
    decides: bool = True
    """Whether it is part of the verdict, or only told."""


@dataclass(frozen=True)
class Finding:
    """What a comparison came to."""

    word: Word
    sentence: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    """The mean difference or ratio and its 95% confidence interval."""


def judge(rule: Sequence[Comparison], values: Values) -> tuple[Word, list[Finding]]:
    """The verdict, and the findings of all comparisons in their order."""
    findings = [compare(comparison, values) for comparison in rule]
    words = {finding.word for finding, comparison in zip(findings, rule, strict=True) if comparison.decides}
    if len(words) == 1:
        return words.pop(), findings
    return ("partly" if words & {"reproduced", "partly"} else "too few runs"), findings


def compare(comparison: Comparison, values: Values) -> Finding:
    """One comparison, over the seeds that both arms have."""
    c = comparison
    seeds = list(zip(values[c.better][c.measure], values[c.worse][c.measure], strict=False))
    missing = 1 if c.limit is None else 2  # so many values, and a seed says nothing
    pairs = [pair for pair in seeds if pair.count(None) < missing]
    arms = f"{c.worse} {'/' if c.ratio else '−'} {c.better}, {c.measure}"
    if seeds and not pairs and c.limit is not None:
        return Finding("too few runs", f"{arms}: reached by neither in {c.limit:g}")
    if len(pairs) < FEWEST:
        told = f"{len(pairs)} seeds" if len(pairs) == len(seeds) else f"{len(pairs)} of {len(seeds)} seeds have values"
        return Finding("too few runs", f"{arms}: {told}, and {FEWEST} are the fewest to judge by")
    if c.ratio and (low := min(value for pair in pairs for value in pair if value is not None)) <= 0:
        return Finding("too few runs", f"{arms}: no ratio can be taken of {low:g}")
    better, worse = zip(*(_numbers(c, *pair) for pair in pairs), strict=True)
    found = paired_difference(better, worse)
    mean, low, high, least = found.mean, found.low, found.high, math.log(c.least) if c.ratio else c.least
    if low > 0:
        word: Word = "reproduced" if mean >= least else "partly"
    else:
        word = "not reproduced" if high < least else "too few runs"
    shown = [math.exp(value) if c.ratio else value for value in (mean, low, high)]
    late, later = (any(pair[side] is None for pair in pairs) for side in (0, 1))
    cut = "roughly " if late and later else "at most " if late else "at least " if later else ""
    return Finding(word, f"{arms}: {cut}{_told(c, *shown)}; the paper: {c.paper}", *shown)


def _numbers(c: Comparison, *pair: float | None) -> list[float]:
    """What is subtracted: the better arm's value and the worse one's, or of a ratio their logarithms."""
    found = [float(c.limit if value is None else value) for value in pair]  # type: ignore[arg-type]
    return [math.log(value) if c.ratio else value for value in found]


def _told(c: Comparison, mean: float, low: float, high: float) -> str:
    form = "{:.2f}" if c.ratio else "{:+.2f}"
    mean_, low_, high_ = (form.format(value) for value in (mean, low, high))
    return f"{mean_} (95%: {low_} to {high_})"
