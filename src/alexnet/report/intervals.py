"""How sure a figure is: of one run, by the number of its images; of a setting, by its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FEWEST", "LEVEL", "PairedDifference", "paired_difference", "wilson"]

LEVEL = 0.95
FEWEST = 3
"""Seeds of a setting; with fewer nothing is claimed."""


def wilson(right: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval for a share of which ``right`` of ``count`` were seen, in percent.

    It answers for which images were drawn, and for nothing else: another seed varies besides.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927) 209-212; recommended by L. D. Brown, T. T. Cai, A. DasGupta, Interval estimation
    for a binomial proportion, Statistical Science 16 (2001) 101-133.

    Raises:
        ValueError: no images, or more right than there are.
    """
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"{right} right of {count} images: allowed is 0 to all of at least one")
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, scale = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # 0 and 1 belong to it where nothing, or everything, was right; rounding shall not say otherwise.
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == count else middle + half
    return 100 * low, 100 * high


@dataclass(frozen=True)
class PairedDifference:
    """By how much a second setting's figures are above a first one's, seed by seed."""

    count: int
    mean: float
    low: float
    high: float
    p: float
    """Two-sided: how often seeds alone would give a mean as far from 0."""


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> PairedDifference:
    """Student's paired t test of ``second`` − ``first``, which has one figure a seed each, in the same order.

    Source: Student, The probable error of a mean, Biometrika 6 (1908) 1-25.

    Raises:
        ValueError: the figures do not pair, or are fewer than ``FEWEST``.
    """
    if len(first) != len(second) or len(first) < FEWEST:
        raise ValueError(f"{len(first)} and {len(second)} figures: a paired test wants the same {FEWEST} or more seeds")
    from scipy.special import stdtr, stdtrit

    differences = [b - a for a, b in zip(first, second, strict=True)]
    count, mean = len(differences), statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(count)
    if error == 0:
        return PairedDifference(count, mean, mean, mean, 1.0 if mean == 0 else 0.0)
    half = error * float(stdtrit(count - 1, (1 + level) / 2))
    p = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return PairedDifference(count, mean, mean - half, mean + half, p)
