"""Statistics of few numbers: means, paired differences with their intervals, shares of variance."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
"""Confidence of every interval."""


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None of less than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def student_within(t: float, degrees: int) -> float:
    """Probability that Student's t of so many degrees of freedom is between -t and t.

    Finite sums for whole degrees: Abramowitz and Stegun, Handbook of Mathematical Functions,
    26.7.3 (odd) and 26.7.4 (even), https://personal.math.ubc.ca/~cbm/aands/page_948.htm
    """
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for last in range(1 + degrees % 2, degrees, 2):
        total += term
        term *= cosine**2 * last / (last + 1)
    if degrees % 2:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def student_bound(level: float, degrees: int) -> float:
    """The t that Student's t of so many degrees is within with a probability of `level`."""
    low, high = 0.0, 1.0
    while student_within(high, degrees) < level:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if student_within(middle, degrees) < level else (low, middle)
    return high


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences, and what is known about it."""

    mean: float
    """Mean of second minus first."""
    interval: float | None
    """Half of the confidence interval of the mean; None of one pair."""
    chance: float | None
    """Probability of a mean as far from 0 if there is no difference; None of one pair."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval tells a difference."""
        return self.interval is not None and abs(self.mean) > self.interval


def paired(pairs: Sequence[tuple[float, float]]) -> Paired:
    """Compare the seconds of pairs with their firsts, by Student's t for paired samples.

    https://www.itl.nist.gov/div898/handbook/eda/section3/eda352.htm, of the differences.
    """
    differences = [second - first for first, second in pairs]
    mean, error = fmean(differences), standard_error(differences)
    if error is None:
        return Paired(mean, None, None)
    degrees = len(differences) - 1
    if error == 0:
        chance = 0.0 if mean else 1.0
    else:
        chance = max(0.0, 1 - student_within(abs(mean) / error, degrees))
    return Paired(mean, student_bound(LEVEL, degrees) * error, chance)


def holm(chances: Sequence[float]) -> list[bool]:
    """Which of several tests hold if at most 1 - LEVEL is the chance that any holds wrongly.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979), https://www.jstor.org/stable/4615733
    """
    held = [False] * len(chances)
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        if chances[place] > (1 - LEVEL) / (len(chances) - rank):
            break
        held[place] = True
    return held


def by_level(levels: Sequence[Hashable], scores: Sequence[float]) -> dict[Hashable, list[float]]:
    """Scores of each level, in the order of their first."""
    found: dict[Hashable, list[float]] = {}
    for level, score in zip(levels, scores, strict=True):
        found.setdefault(level, []).append(score)
    return found


def share_of_variance(levels: Sequence[Hashable], scores: Sequence[float]) -> float:
    """Sum of squares between levels over the total one (eta squared), 0 to 1.

    https://www.itl.nist.gov/div898/handbook/prc/section4/prc432.htm
    """
    mean = fmean(scores)
    total = sum((score - mean) ** 2 for score in scores)
    between = sum(
        len(group) * (fmean(group) - mean) ** 2 for group in by_level(levels, scores).values()
    )
    return min(1.0, between / total) if total else 0.0


def spread(levels: Sequence[Hashable], scores: Sequence[float]) -> float:
    """Mean of the level with the highest minus that of the one with the lowest."""
    means = [fmean(group) for group in by_level(levels, scores).values()]
    return max(means) - min(means)


def quarters(numbers: Sequence[float]) -> list[int]:
    """The quarter of each number, 0 for the lowest; equal numbers are in one."""
    ordered = sorted(numbers)
    return [4 * ordered.index(number) // len(numbers) for number in numbers]


def plus_minus(mean: float, error: float | None, places: int = 3) -> str:
    """Mean and error in words, with more places where the error needs them to be above 0."""
    if error is None:
        return f"{mean:.{places}f}"
    needed = -math.floor(math.log10(error)) if error > 0 else 0
    places = min(8, max(places, needed))
    return f"{mean:.{places}f} +- {error:.{places}f}"
