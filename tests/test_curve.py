"""training_curve.svg."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.curve import HEIGHT, WIDTH, nice_ticks, short, training_curve

SVG = "{http://www.w3.org/2000/svg}"
TRAIN = [(1e5 * i, 8.0 / i) for i in range(1, 30)]
VALIDATION = [(1e6 * i, 7.0 / i) for i in range(1, 4)]

POINTS = st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e6) | st.just(math.nan)), max_size=8)


def drawn(text: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each curve, by its name."""
    lines = ET.fromstring(text).findall(f"{SVG}polyline")
    return {
        str(line.get("id")): [
            (float(x), float(y))
            for x, y in (point.split(",") for point in str(line.get("points")).split())
        ]
        for line in lines
    }


def test_two_curves_with_all_points() -> None:
    curves = drawn(training_curve("title", TRAIN, VALIDATION))
    assert {name: len(points) for name, points in curves.items()} == {"train": 29, "validation": 3}


def test_down_is_lower_and_right_is_later() -> None:
    points = drawn(training_curve("title", TRAIN, []))["train"]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # y grows downwards


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_are_left_out(bad: float) -> None:
    train = [(1.0, 5.0), (2.0, bad), (3.0, 4.0)]
    text = training_curve("title", train, [(1.0, bad)])
    assert {name: len(points) for name, points in drawn(text).items()} == {"train": 2}
    assert "nan" not in text
    assert "inf" not in text


@pytest.mark.parametrize(
    ("train", "validation", "names"),
    [
        ([], [], []),
        ([(0.0, 1.0)], [], ["train"]),
        ([], [(5.0, 2.0)], ["validation"]),
        ([(1.0, 2.0), (2.0, 2.0)], [(2.0, 2.0)], ["train", "validation"]),
        ([(1.0, 0.0)], [], ["train"]),
    ],
)
def test_few_points(
    train: list[tuple[float, float]], validation: list[tuple[float, float]], names: list[str]
) -> None:
    assert list(drawn(training_curve("title", train, validation))) == names


@given(POINTS, POINTS)
def test_any_points_stay_inside(
    train: list[tuple[float, float]], validation: list[tuple[float, float]]
) -> None:
    for points in drawn(training_curve("title", train, validation)).values():
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", "a & b", '"x"', "]]>", "\u6c34"])
def test_title_is_text(title: str) -> None:
    root = ET.fromstring(training_curve(title, TRAIN, VALIDATION))
    assert root.findtext(f"{SVG}title") == title
    assert title in [element.text for element in root.findall(f"{SVG}text")]
    assert root.find(f".//{SVG}script") is None


def test_same_points_same_file() -> None:
    assert training_curve("t", TRAIN, VALIDATION) == training_curve("t", TRAIN, VALIDATION)


def test_final_values_are_in_the_legend() -> None:
    text = training_curve("t", TRAIN, VALIDATION)
    assert f"train {8 / 29:.3f}" in text
    assert f"validation {7 / 3:.3f}" in text


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0, 1_000_000, 5, [0, 200_000, 400_000, 600_000, 800_000, 1_000_000]),
        (0, 1, 4, [0, 0.25, 0.5, 0.75, 1]),
        (2.1, 3.9, 6, [2.5, 3, 3.5]),
        (-1, 1, 2, [-1, 0, 1]),
        (5, 5, 1, [5]),
    ],
)
def test_nice_ticks(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_inside_and_about_as_many_as_asked(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert len(ticks) <= count + 2
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1500, "1.5k"),
        (1_200_000, "1.2M"),
        (2.5e9, "2.5B"),
        (0.25, "0.25"),
        (-1500, "-1.5k"),
    ],
)
def test_short(number: float, text: str) -> None:
    assert short(number) == text
