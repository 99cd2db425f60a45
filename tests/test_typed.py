"""Plain values into dataclasses, and the words for what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from babygpt_exp.typed import build, convert, nearest


@dataclass
class Inner:
    """A dataclass with each kind of field."""

    count: int
    share: float
    word: str
    switch: bool
    choice: Literal["a", "b", 3]
    maybe: int | None
    items: list[int]
    pair: tuple[float, float]
    extra: int = 4

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"x.count={self.count} must not be negative")


GOOD: dict[str, Any] = {
    "count": 1,
    "share": 2,
    "word": "w",
    "switch": False,
    "choice": 3,
    "maybe": None,
    "items": [1, 2],
    "pair": [1, 2.5],
}


class TestTyped:
    """Plain values into dataclasses, by table."""

    def test_build(self) -> None:
        problems: list[str] = []
        made = build(Inner, GOOD, "x.", problems)
        assert problems == []
        assert made == Inner(1, 2.0, "w", False, 3, None, [1, 2], (1.0, 2.5), 4)
        assert type(made.share) is float

    @pytest.mark.parametrize(
        ("change", "problems"),
        [
            ({"switch": 1}, ["x.switch=1 must be true or false"]),
            ({"choice": 3.0}, ["x.choice=3.0 must be one of: a, b, 3"]),
            ({"count": -1}, ["x.count=-1 must not be negative"]),
            ({"count": "many"}, ["x.count=many must be a whole number"]),
            ({"conut": 1}, ["unknown key 'x.conut'; did you mean 'x.count'?"]),
            ({"pair": [1]}, ["x.pair=[1] must have 2 items"]),
            (
                {"word": 5, "switch": 0},
                ["x.switch=0 must be true or false", "x.word=5 must be text"],
            ),
        ],
    )
    def test_problems(self, change: dict[str, Any], problems: list[str]) -> None:
        found: list[str] = []
        assert build(Inner, GOOD | change, "x.", found) is None
        assert sorted(found) == problems

    def test_missing(self) -> None:
        found: list[str] = []
        values = {key: value for key, value in GOOD.items() if key not in ("word", "maybe")}
        assert build(Inner, values, "x.", found) is None
        assert sorted(found) == ["x.maybe is missing", "x.word is missing"]

    @pytest.mark.parametrize(
        ("value", "hint", "result"),
        [
            (1, int, 1),
            (1e3, int, 1000),
            (1, float, 1.0),
            ("x", str, "x"),
            (True, bool, True),
            (None, int | None, None),
            (5, int | None, 5),
            (None, str | None, None),
            ("a", Literal["a", "b"], "a"),
            (True, Literal["auto", True, False], True),
            ([1, 2], list[float], [1.0, 2.0]),
            ([], list[str], []),
            ("x", str | list[str], "x"),
            (["x"], str | list[str], ["x"]),
            (None, str | list[str] | None, None),
            ([0.9, 1], tuple[float, float], (0.9, 1.0)),
        ],
    )
    def test_convert(self, value: Any, hint: Any, result: Any) -> None:
        converted = convert(value, hint)
        assert converted == result
        assert type(converted) is type(result)

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            (1.5, int),
            (True, int),
            (False, float),
            ("1", int),
            (1, str),
            (1, bool),
            (None, int),
            (None, str),
            ("c", Literal["a", "b"]),
            ([1], Literal["a", "b"]),
            ("abc", list[str]),
            (["a", 1], list[str]),
            (5, str | list[str]),
            ([5], str | list[str]),
            (None, str | list[str]),
            ([1.0], tuple[float, float]),
            ({"a": 1}, int),
            (float("nan"), int),
            (float("inf"), int),
        ],
    )
    def test_convert_refuses(self, value: Any, hint: Any) -> None:
        with pytest.raises(TypeError, match="must"):
            convert(value, hint)

    @pytest.mark.parametrize(
        ("word", "hint"),
        [
            ("bbaby", "did you mean 'baby'?"),
            ("nano", "did you mean 'nano'?"),
            ("qqqq", "there are: baby, nano"),
            ("x.witdh", "did you mean 'x.width'?"),
            ("y.witdh", "did you mean 'y.width'?"),
            ("x.qqqqqqq", "there are: x.width"),
        ],
    )
    def test_nearest(self, word: str, hint: str) -> None:
        assert nearest(word, ["nano", "baby", "x.width", "y.width"]) == hint
