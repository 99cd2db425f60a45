"""The statistics of a report, and the sentences that they become."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.report.comparison import (
    levels_of,
    make_differences,
    make_groups,
    make_importances,
    short,
)
from babygpt_exp.report.content import Run, Status
from babygpt_exp.report.statistics import (
    holm,
    paired,
    plus_minus,
    quarters,
    share_of_variance,
    spread,
    standard_error,
    student_bound,
    student_within,
)

SCORES = st.floats(0.5, 8.0).map(lambda score: round(score, 6))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([], None),
        ([2.0], None),
        ([2.0, 2.0], 0.0),
        ([1.0, 3.0], 1.0),
        ([2, 4, 4, 4, 5, 5, 7, 9], math.sqrt(32 / 7 / 8)),
    ],
)
def test_standard_error(values: list[float], error: float | None) -> None:
    assert standard_error(values) == pytest.approx(error)


class TestStudent:
    """Student's t, against the tables in every textbook."""

    @pytest.mark.parametrize(
        ("degrees", "bound_95", "bound_99"),
        [
            (1, 12.706, 63.657),
            (2, 4.303, 9.925),
            (3, 3.182, 5.841),
            (4, 2.776, 4.604),
            (5, 2.571, 4.032),
            (10, 2.228, 3.169),
            (29, 2.045, 2.756),
            (30, 2.042, 2.750),
            (120, 1.980, 2.617),
            (1000, 1.962, 2.581),
        ],
    )
    def test_bounds(self, degrees: int, bound_95: float, bound_99: float) -> None:
        assert student_bound(0.95, degrees) == pytest.approx(bound_95, abs=6e-4)
        assert student_bound(0.99, degrees) == pytest.approx(bound_99, abs=6e-4)

    @given(st.floats(0.01, 0.999), st.integers(1, 200))
    def test_bound_is_where_the_probability_is_reached(self, level: float, degrees: int) -> None:
        assert student_within(student_bound(level, degrees), degrees) == pytest.approx(level)

    @given(st.floats(0, 50), st.integers(1, 60))
    def test_probability_is_that_of_the_density(self, t: float, degrees: int) -> None:
        scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
        scale /= math.sqrt(degrees * math.pi)
        steps = 4000
        middles = ((i + 0.5) * t / steps for i in range(steps))
        area = sum((1 + x * x / degrees) ** (-(degrees + 1) / 2) for x in middles) * t / steps
        assert student_within(t, degrees) == pytest.approx(2 * scale * area, abs=1e-4)


class TestPaired:
    """Two series, pair by pair."""

    def test_one_pair_tells_nothing(self) -> None:
        result = paired([(2.0, 2.5)])
        assert (result.num_pairs, result.mean) == (1, 0.5)
        assert result.interval is None
        assert result.chance is None
        assert not result.excludes_zero

    def test_three_pairs(self) -> None:
        result = paired([(1.0, 1.1), (1.2, 1.4), (0.9, 1.2)])  # 0.1, 0.2, 0.3
        assert result.mean == pytest.approx(0.2)
        assert result.interval == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
        assert result.chance == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641, 2 degrees
        assert not result.excludes_zero

    def test_equal_pairs(self) -> None:
        result = paired([(1.5, 1.5), (1.5, 1.5)])
        assert (result.mean, result.interval, result.chance) == (0.0, 0.0, 1.0)
        assert not result.excludes_zero

    def test_equal_differences(self) -> None:
        result = paired([(1.5, 2.0), (2.5, 3.0)])
        assert (result.mean, result.interval, result.chance) == (0.5, 0.0, 0.0)
        assert result.excludes_zero

    @given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=8))
    def test_interval_and_chance_agree(self, pairs: list[tuple[float, float]]) -> None:
        result = paired(pairs)
        assert result.interval is not None
        assert result.chance is not None
        if not math.isclose(abs(result.mean), result.interval, rel_tol=1e-9, abs_tol=1e-12):
            assert result.excludes_zero == (result.chance < 0.05)

    @given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=8))
    def test_the_other_way_round(self, pairs: list[tuple[float, float]]) -> None:
        result, other = paired(pairs), paired([(b, a) for a, b in pairs])
        assert other.mean == pytest.approx(-result.mean)
        assert other.interval == pytest.approx(result.interval)


@pytest.mark.parametrize(
    ("chances", "held"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.06], [False]),
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.04, 0.04], [False, False]),
        ([0.02, 0.04], [True, True]),
        ([0.0, 1.0, 0.0], [True, False, True]),
    ],
)
def test_holm(chances: list[float], held: list[bool]) -> None:
    assert holm(chances) == held


class TestShareOfVariance:
    """Sums of squares between levels over the total."""

    @pytest.mark.parametrize(
        ("levels", "scores", "share", "difference"),
        [
            ("aabb", [1.0, 1.0, 2.0, 2.0], 1.0, 1.0),
            ("abab", [1.0, 1.0, 2.0, 2.0], 0.0, 0.0),
            ("aabb", [1.0, 2.0, 2.0, 3.0], 0.5, 1.0),
            ("aabbcc", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.0, 0.0),
            ("a", [1.0], 0.0, 0.0),
        ],
    )
    def test_table(self, levels: str, scores: list[float], share: float, difference: float) -> None:
        assert share_of_variance(levels, scores) == pytest.approx(share)
        assert spread(levels, scores) == pytest.approx(difference)

    @given(st.lists(SCORES, min_size=12, max_size=12))
    def test_shares_of_a_full_sweep_add_up_to_at_most_all(self, scores: list[float]) -> None:
        runs = list(itertools.product("ab", "xy", "123"))
        shares = [share_of_variance([run[i] for run in runs], scores) for i in range(3)]
        assert all(0 <= share <= 1 for share in shares)
        assert sum(shares) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([1, 2, 3, 4], [0, 1, 2, 3]),
        ([8, 7, 6, 5, 4, 3, 2, 1], [3, 3, 2, 2, 1, 1, 0, 0]),
        ([5, 5, 5, 5], [0, 0, 0, 0]),
    ],
)
def test_quarters(numbers: list[float], found: list[int]) -> None:
    assert quarters(numbers) == found


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (0.0812, 0.0061, "0.081 +- 0.006"),
        (0.0021, 0.0004, "0.0021 +- 0.0004"),
        (1.5, 0.0, "1.500 +- 0.000"),
        (1.5, 12.0, "1.500 +- 12.000"),
        (1.5, None, "1.500"),
        (1e-6, 3e-12, "0.00000100 +- 0.00000000"),
    ],
)
def test_plus_minus(mean: float, error: float | None, text: str) -> None:
    assert plus_minus(mean, error) == text


def test_plus_minus_with_more_places() -> None:
    assert plus_minus(2.01, 0.1, places=4) == "2.0100 +- 0.1000"


def run(score: float | None, status: Status = "completed", **varied: str) -> Run:
    """A run with a score, seed 1 unless that varies."""
    return Run(
        folder=Path("/", *varied.values()),
        number=None,
        name=",".join(varied.values()),
        status=status,
        error=None,
        seed=int(varied.get("seed", "1")),
        varied=varied,
        summary={"status": status, "final_val_bpb": score},
        rows=pd.DataFrame(),
        samples=[],
    )


def sweep(scores: Mapping[str, float | None]) -> tuple[list[Run], list[str]]:
    """Runs by "optimizer model seed", and keys."""
    keys = ["optimizer", "model", "seed"][: len(next(iter(scores)).split())]
    if len(next(iter(scores)).split()) == 2:
        keys = ["optimizer", "seed"]
    runs = [run(score, **dict(zip(keys, at.split(), strict=True))) for at, score in scores.items()]
    return runs, keys


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.015066227325619625", "0.015066"),
        ("1.2345678901234e-05", "1.2346e-05"),
        ("0.02", "0.02"),
        ("100_000_000", "100_000_000"),
        ("1234567890123456", "1234567890123456"),
        ("a_very_long_option", "a_very_long_option"),
        ("", ""),
    ],
)
def test_short(value: str, text: str) -> None:
    assert short(value) == text


class TestGroups:
    """Runs that differ in their seed alone."""

    def test_best_first_and_without_a_score_last(self) -> None:
        scores = {"sgd 1": None, "adamw 1": 2.0, "muon 2": 1.5, "adamw 2": 2.2, "muon 1": 1.4}
        groups = make_groups(*sweep(scores))
        assert [group.name for group in groups] == [
            "optimizer=muon",
            "optimizer=adamw",
            "optimizer=sgd",
        ]
        assert [run.seed for run in groups[0].runs] == [1, 2]
        assert groups[0].mean == pytest.approx(1.45)
        assert groups[0].error == pytest.approx(0.05)
        assert (groups[2].mean, groups[2].error) == (None, None)

    def test_seeds_alone_are_one_group(self) -> None:
        (group,) = make_groups([run(2.0, seed="1"), run(3.0, seed="2")], ["seed"])
        assert (group.name, group.mean) == ("all runs", 2.5)

    def test_a_value_that_was_not_given(self) -> None:
        groups = make_groups([run(2.0, ablation=""), run(1.0, ablation="base")], ["ablation"])
        assert [group.name for group in groups] == ["ablation=base", "without ablation"]

    def test_what_is_not_completed_counts_for_nothing(self) -> None:
        runs = [run(2.0, seed="1"), run(1.0, "interrupted", seed="2"), run(float("nan"), seed="3")]
        (group,) = make_groups(runs, ["seed"])
        assert (len(group.runs), group.mean, group.error) == (3, 2.0, None)


class TestSentences:
    """What is said of two groups."""

    @pytest.mark.parametrize(
        ("scores", "sentence"),
        [
            (
                {"muon 1": 1.0, "muon 2": 1.1, "muon 3": 1.2}
                | {"adamw 1": 1.081, "adamw 2": 1.179, "adamw 3": 1.283},
                "optimizer=muon beats optimizer=adamw by 0.081 +- 0.005 bits/byte over 3 seeds",
            ),
            (
                {"muon 1": 1.0, "muon 2": 1.1, "adamw 1": 1.1, "adamw 2": 1.11},
                "no difference between optimizer=muon and optimizer=adamw can be told from 2 seeds",
            ),
            (
                {"muon 1": 1.5, "muon 2": 1.5, "adamw 1": 1.5, "adamw 2": 1.5},
                "no difference between optimizer=muon and optimizer=adamw can be told from 2 seeds",
            ),
            (
                {"muon 7": 1.0, "adamw 7": 1.5},
                "one seed tells no difference: "
                "optimizer=muon 1.000, optimizer=adamw 1.500 bits/byte with seed 7",
            ),
            (
                {"adamw 7": 1.5, "muon 1": 1.4, "muon 7": 1.6},
                "one seed tells no difference: "
                "optimizer=adamw 1.500, optimizer=muon 1.600 bits/byte with seed 7",
            ),
        ],
        ids=["told", "not told", "all equal", "one seed", "one shared seed"],
    )
    def test_two_groups(self, scores: Mapping[str, float], sentence: str) -> None:
        differences, _ = make_differences(make_groups(*sweep(scores)))
        assert [difference.sentence for difference in differences] == [sentence]

    def test_no_shared_seed(self) -> None:
        differences, notes = make_differences(make_groups(*sweep({"muon 1": 1.0, "adamw 2": 1.5})))
        assert differences == []
        assert notes == ["comparisons left out, since both sides share no seed: 1"]

    def test_nothing_to_compare(self) -> None:
        assert make_differences(make_groups(*sweep({"muon 1": None, "adamw 1": None}))) == ([], [])
        assert make_differences(make_groups(*sweep({"muon 1": 1.0, "muon 2": 1.5}))) == ([], [])
        assert make_differences([]) == ([], [])


FULL = {
    f"{optimizer} {model} {seed}": 1.0
    + 0.1 * (optimizer == "adamw")
    + 0.5 * (model == "nano")
    + 0.03 * seed
    + 0.001 * seed * (optimizer == "adamw")
    for optimizer, model, seed in itertools.product(["muon", "adamw"], ["nano", "baby"], [1, 2, 3])
}


class TestSeveralKeys:
    """Two optimizers, two models, three seeds."""

    def test_values_first_then_groups(self) -> None:
        differences, notes = make_differences(make_groups(*sweep(FULL)))
        assert [(d.key, d.better, d.worse) for d in differences] == [
            ("optimizer", "optimizer=muon", "optimizer=adamw"),
            ("model", "model=baby", "model=nano"),
            (None, "optimizer=muon,model=baby", "optimizer=adamw,model=baby"),
            (None, "optimizer=muon,model=baby", "optimizer=muon,model=nano"),
            (None, "optimizer=muon,model=baby", "optimizer=adamw,model=nano"),
        ]
        assert differences[0].sentence == (
            "optimizer=muon beats optimizer=adamw by 0.102 +- 0.002 bits/byte over 3 seeds, "
            "on average over 2 settings of model"
        )
        assert differences[0].num_seeds == 3  # six runs a side, but a seed is one observation
        assert all(difference.holds for difference in differences)
        assert "5 comparisons" in notes[1]
        assert "5 still hold" in notes[1]

    def test_a_failed_run_takes_its_seed_out_of_the_average(self) -> None:
        differences, _ = make_differences(make_groups(*sweep(FULL | {"adamw nano 3": None})))
        assert [(d.key, d.num_seeds) for d in differences] == [
            ("optimizer", 2),
            ("model", 2),
            (None, 3),
            (None, 3),
            (None, 2),
        ]

    def test_where_one_setting_is_left_two_groups_say_it(self) -> None:
        failed: dict[str, float | None] = {f"adamw nano {seed}": None for seed in (1, 2, 3)}
        differences, _ = make_differences(make_groups(*sweep(FULL | failed)))
        assert [(d.key, d.worse) for d in differences] == [
            (None, "optimizer=adamw,model=baby"),
            (None, "optimizer=muon,model=nano"),
        ]

    def test_one_seed_is_said_once_of_each_kind(self) -> None:
        scores = {at: score for at, score in FULL.items() if at.endswith("1")}
        differences, notes = make_differences(make_groups(*sweep(scores)))
        assert [difference.key for difference in differences] == ["optimizer", "model", None]
        assert all("one seed tells no difference" in d.sentence for d in differences)
        assert notes == ["comparisons left out, since one seed tells no difference: 2"]

    @given(st.lists(st.none() | SCORES, min_size=12, max_size=12))
    def test_any_scores_make_true_sentences(self, scores: list[float | None]) -> None:
        runs, keys = sweep(dict(zip(FULL, scores, strict=True)))
        groups = make_groups(runs, keys)
        differences, _ = make_differences(groups)
        assert len(differences) <= 5
        for difference in differences:
            assert difference.mean >= 0
            told = difference.interval is not None and difference.mean > difference.interval
            assert (" beats " in difference.sentence) == told
            assert not difference.holds or told or difference.interval is not None
        for importance in make_importances(runs, keys)[0]:
            assert 0 <= importance.share <= 1
            assert importance.spread >= 0


class TestImportances:
    """Which key mattered."""

    def test_most_important_first(self) -> None:
        runs, keys = sweep(FULL)
        importances, notes = make_importances(runs, keys)
        assert [importance.key for importance in importances] == ["model", "optimizer", "seed"]
        assert importances[0].share > 0.9
        assert importances[0].spread == pytest.approx(0.5)
        assert sum(importance.share for importance in importances) == pytest.approx(1, abs=1e-3)
        assert notes == []

    def test_seeds_alone_say_nothing(self) -> None:
        assert make_importances([run(1.0, seed="1"), run(2.0, seed="2")], ["seed"]) == ([], [])

    def test_no_scores(self) -> None:
        runs, keys = sweep(dict.fromkeys(FULL))
        assert make_importances(runs, keys) == ([], [])

    def test_values_with_one_run_each(self) -> None:
        importances, notes = make_importances(*sweep({"muon 1": 1.0, "adamw 1": 1.5}))
        assert importances == []
        assert notes == [
            "how much optimizer matters can not be told: its values have one run each",
            "how much seed matters can not be told: completed runs have one value",
        ]

    def test_numbers_that_no_two_runs_share(self) -> None:
        runs = [run(2.0 + rate, lr=f"{rate}", model="ab"[i % 2]) for i, rate in enumerate(RATES)]
        importances, notes = make_importances(runs, ["lr", "model"])
        assert importances[0].key == "lr"
        assert importances[0].share > 0.8
        assert notes == ["lr is taken by quarters of its values to say how much it matters"]

    @pytest.mark.parametrize(
        ("values", "levels"),
        [
            (["a", "b", "a", "b"], ["a", "b", "a", "b"]),
            (["a", "b", "c"], None),
            (["1", "2", "3"], None),
            ([f"{rate}" for rate in range(8)], [0, 0, 1, 1, 2, 2, 3, 3]),
        ],
    )
    def test_levels(self, values: list[str], levels: list[int] | list[str] | None) -> None:
        assert levels_of(values) == levels


RATES = [0.01 * 1.5**i for i in range(12)]
