"""What runs show when they are compared: groups, differences between them, and what mattered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from babygpt_exp.report.content import Difference, Group, Importance, Run
from babygpt_exp.report.statistics import (
    Paired,
    holm,
    paired,
    plus_minus,
    quarters,
    share_of_variance,
    spread,
    standard_error,
)

UNIT = "bits/byte"
"""Unit of scores."""

NUM_VALUE_SIGNS = 12
"""Longest number that is shown whole."""

MIN_QUARTERED_RUNS = 8
"""Runs from which a number that no two runs share is looked at by quarters of its values."""


def short(value: str) -> str:
    """A value as people read it: of a drawn number, 0.015066227325619625, the first digits."""
    if len(value) <= NUM_VALUE_SIGNS or value.isdecimal():
        return value
    try:
        return f"{float(value):.5g}"
    except ValueError:
        return value


def words(values: Mapping[str, str]) -> str:
    """Values of keys as they were typed, numbers shortened."""
    return ",".join(f"{key}={short(value)}" for key, value in values.items() if value)


def side_name(values: Mapping[str, str]) -> str:
    """What a side of a comparison is called, also if its values were not given."""
    return words(values) or f"without {','.join(values)}"


def make_groups(runs: Iterable[Run], keys: Sequence[str]) -> list[Group]:
    """Runs that differ in their seed alone, the group with the lowest mean first."""
    found: dict[tuple[str, ...], list[Run]] = {}
    rest = [key for key in keys if key != "seed"]
    for run in runs:
        if run.summary:
            found.setdefault(tuple(run.varied[key] for key in rest), []).append(run)
    groups = []
    for values, members in found.items():
        varied = dict(zip(rest, values, strict=True))
        members.sort(key=lambda run: (run.seed is None, run.seed, run.number, run.name))
        scores = [run.score for run in members if run.score is not None]
        mean = fmean(scores) if scores else None
        name = side_name(varied) if rest else "all runs"
        groups.append(Group(name, varied, members, mean, standard_error(scores)))
    return sorted(groups, key=lambda group: (group.mean is None, group.mean))


def by_seed(group: Group) -> dict[int, float]:
    """Scores of a group by seed; a seed that ran twice has the mean."""
    found: dict[int, list[float]] = {}
    for run in group.runs:
        if run.score is not None and run.seed is not None:
            found.setdefault(run.seed, []).append(run.score)
    return {seed: fmean(scores) for seed, scores in found.items()}


@dataclass(frozen=True)
class Pair:
    """Two sides to compare."""

    better: str
    """Name of the side with the lower mean."""
    worse: str
    """Name of the other."""
    scores: Mapping[int, tuple[float, float]]
    """Scores of both, by the seeds that both have."""
    result: Paired
    """Worse minus better."""
    key: str | None
    """The key whose values are compared; None of two groups."""
    circumstances: str
    """What both sides have in common, as words to add."""

    def sentence(self) -> str:
        """What can be said."""
        seeds, result = f"{len(self.scores)} seeds", self.result
        if result.interval is None:
            ((seed, (low, high)),) = self.scores.items()
            text = f"{self.better} {low:.3f}, {self.worse} {high:.3f} {UNIT} with seed {seed}"
            return f"one seed tells no difference: {text}{self.circumstances}"
        if not result.excludes_zero:
            text = f"no difference between {self.better} and {self.worse} can be told from {seeds}"
            return f"{text}{self.circumstances}"
        amount = f"{plus_minus(result.mean, result.interval)} {UNIT}"
        return f"{self.better} beats {self.worse} by {amount} over {seeds}{self.circumstances}"

    def difference(self, holds: bool) -> Difference:
        """The same as part of a report."""
        return Difference(
            better=self.better,
            worse=self.worse,
            num_seeds=len(self.scores),
            mean=self.result.mean,
            interval=self.result.interval,
            sentence=self.sentence(),
            key=self.key,
            holds=holds,
        )


def make_pair(
    first: str,
    second: str,
    scores: Mapping[int, tuple[float, float]],
    key: str | None = None,
    circumstances: str = "",
) -> Pair | None:
    """Two sides by their scores for each seed, the better one first; None without any seed."""
    if not scores:
        return None
    result = paired(list(scores.values()))
    if result.mean < 0:
        swapped = {seed: (theirs, ours) for seed, (ours, theirs) in scores.items()}
        return make_pair(second, first, swapped, key, circumstances)
    return Pair(first, second, scores, result, key, circumstances)


def pair_of_groups(first: Group, second: Group) -> Pair | None:
    """Two groups by the seeds that both have."""
    ours, theirs = by_seed(first), by_seed(second)
    scores = {seed: (ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}
    return make_pair(first.name, second.name, scores)


def pair_of_values(groups: Sequence[Group], key: str, first: str, second: str) -> Pair | None:
    """Two values of a key, all else equal: for each seed the mean over all that else can be.

    Seeds are what is drawn at random, so that each is one observation however many groups it is
    in. Only seeds count that all those groups have which both values have. None without any, and
    if nothing else varies: two groups say that.
    """
    sides: dict[str, dict[tuple[str, ...], dict[int, float]]] = {first: {}, second: {}}
    for group in groups:
        if group.varied[key] in sides:
            rest = tuple(value for other, value in group.varied.items() if other != key)
            sides[group.varied[key]][rest] = by_seed(group)
    ours, theirs = sides[first], sides[second]
    shared = {rest: ours[rest].keys() & theirs[rest].keys() for rest in ours if rest in theirs}
    settings = [rest for rest, seeds in shared.items() if seeds]
    if len(settings) < 2:
        return None
    seeds = sorted(set.intersection(*(shared[rest] for rest in settings)))
    scores = {
        seed: (
            fmean(ours[rest][seed] for rest in settings),
            fmean(theirs[rest][seed] for rest in settings),
        )
        for seed in seeds
    }
    others = " and ".join(other for other in groups[0].varied if other != key)
    circumstances = f", on average over {len(settings)} settings of {others}"
    return make_pair(side_name({key: first}), side_name({key: second}), scores, key, circumstances)


def make_pairs(groups: Sequence[Group]) -> tuple[list[Pair], int]:
    """What to compare: the best value of each key with its others where several keys vary, and
    the best group with the others. Second is how many groups share no seed with the best.
    """
    scored = [group for group in groups if group.mean is not None]
    if not scored:
        return [], 0
    of_values = []
    for key in scored[0].varied:
        means: dict[str, list[float]] = {}
        for group in scored:
            means.setdefault(group.varied[key], []).append(group.mean or 0.0)
        best, *others = sorted(means, key=lambda value: fmean(means[value]))
        of_values += [pair_of_values(scored, key, best, other) for other in others]
    of_groups = [pair_of_groups(scored[0], group) for group in scored[1:]]
    pairs = [pair for pair in (*of_values, *of_groups) if pair is not None]
    return pairs, of_groups.count(None)


def make_differences(groups: Sequence[Group]) -> tuple[list[Difference], list[str]]:
    """The differences between groups, and what must be known to read them."""
    pairs, num_apart = make_pairs(groups)
    several = [pair for pair in pairs if len(pair.scores) > 1]
    held = holm([pair.result.chance or 0.0 for pair in several])
    differences = [pair.difference(holds) for pair, holds in zip(several, held, strict=True)]
    singles = [pair for pair in pairs if len(pair.scores) == 1]
    first_of_kind = {pair.key: pair for pair in reversed(singles)}  # one says it for all
    differences += [pair.difference(False) for pair in singles if pair in first_of_kind.values()]
    num_untold = len(singles) - len(first_of_kind)
    return differences, difference_notes(several, held, num_untold, num_apart)


def difference_notes(
    several: Sequence[Pair], held: Sequence[bool], num_untold: int, num_apart: int
) -> list[str]:
    """How differences are meant, and which were left out."""
    notes = []
    if several:
        notes.append(
            "+- of a difference is its 95 % interval: Student's t of the differences seed by seed"
        )
    if len(several) > 1:
        num_told = sum(pair.result.excludes_zero for pair in several)
        notes.append(
            f"{len(several)} comparisons of more than one seed were made, and each interval is as "
            f"if it were the only one: of the {num_told} differences told, {sum(held)} still hold "
            "(marked *) if all are taken together, by Holm's correction"
        )
    if num_untold:
        notes.append(f"comparisons left out, since one seed tells no difference: {num_untold}")
    if num_apart:
        notes.append(f"comparisons left out, since both sides share no seed: {num_apart}")
    return notes


def levels_of(values: Sequence[str]) -> list[int] | list[str] | None:
    """The values as levels that more than one run has on average; None if there are none.

    A number that is another in nearly every run is taken by quarters of its values.
    """
    if 2 * len(set(values)) <= len(values):
        return list(values)
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return quarters(numbers) if len(values) >= MIN_QUARTERED_RUNS else None


def make_importances(
    runs: Iterable[Run], keys: Sequence[str]
) -> tuple[list[Importance], list[str]]:
    """How much each key matters by completed runs, and what must be known to read that."""
    scored = [(run, run.score) for run in runs if run.score is not None]
    scores = [score for _, score in scored]
    found, notes = [], []
    for key in keys if set(keys) - {"seed"} and scored else []:
        values = [run.varied[key] for run, _ in scored]
        levels = levels_of(values)
        if levels is None:
            notes.append(f"how much {key} matters can not be told: its values have one run each")
            continue
        if len(set(levels)) == 1:
            notes.append(f"how much {key} matters can not be told: completed runs have one value")
            continue
        if levels != values:
            notes.append(f"{key} is taken by quarters of its values to say how much it matters")
        found.append(Importance(key, share_of_variance(levels, scores), spread(levels, scores)))
    return sorted(found, key=lambda importance: -importance.share), notes
