"""The statistics of a report, by table."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_numbers import SCORES

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
        assert result.mean == 0.5
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
