"""Filters of logits: by table, and whatever the logits are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from babygpt_exp.generation.filters import draw, keep_min_p, keep_top_k, keep_top_p, penalize

NONE = -torch.inf
HALF, QUARTER, EIGHTH = torch.tensor([0.5, 0.25, 0.125]).log().tolist()

Filter = Callable[[Tensor, Tensor], Tensor]
FILTERS: list[tuple[Filter, float, st.SearchStrategy[float]]] = [
    (keep_top_k, 0, st.integers(0, 9)),
    (keep_top_p, 1.0, st.floats(0.01, 1.0)),
    (keep_min_p, 0.0, st.floats(0.0, 1.0)),
]
"""Filter, value that switches it off, values."""


def row(*values: float) -> Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize(
    ("logits", "top_k", "kept"),
    [
        ([1.0, 3.0, 2.0], 0, [1.0, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 1, [NONE, 3.0, NONE]),
        ([1.0, 3.0, 2.0], 2, [NONE, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 3, [1.0, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 50, [1.0, 3.0, 2.0]),
        ([2.0, 2.0, 1.0], 1, [2.0, 2.0, NONE]),
        ([-5.0, -4.0, NONE], 2, [-5.0, -4.0, NONE]),
    ],
)
def test_keep_top_k(logits: list[float], top_k: int, kept: list[float]) -> None:
    assert keep_top_k(row(*logits), torch.tensor([[top_k]])).tolist() == [kept]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1.0, [EIGHTH, HALF, QUARTER, EIGHTH]),
        (0.8, [EIGHTH, HALF, QUARTER, EIGHTH]),
        (0.7, [NONE, HALF, QUARTER, NONE]),
        (0.51, [NONE, HALF, QUARTER, NONE]),
        (0.49, [NONE, HALF, NONE, NONE]),
        (1e-9, [NONE, HALF, NONE, NONE]),
    ],
)
def test_keep_top_p(top_p: float, kept: list[float]) -> None:
    logits = row(EIGHTH, HALF, QUARTER, EIGHTH)
    assert keep_top_p(logits, torch.tensor([[top_p]])).tolist() == [kept]


@pytest.mark.parametrize(
    ("min_p", "kept"),
    [
        (0.0, [EIGHTH, HALF, QUARTER]),
        (0.24, [EIGHTH, HALF, QUARTER]),
        (0.26, [NONE, HALF, QUARTER]),
        (0.51, [NONE, HALF, NONE]),
        (1.0, [NONE, HALF, NONE]),
    ],
)
def test_keep_min_p(min_p: float, kept: list[float]) -> None:
    assert keep_min_p(row(EIGHTH, HALF, QUARTER), torch.tensor([[min_p]])).tolist() == [kept]


def test_penalty_makes_what_is_seen_less_likely() -> None:
    logits, seen = row(2.0, -2.0, 2.0, 0.0), torch.tensor([[True, True, False, True]])
    assert penalize(logits, seen, torch.tensor([[2.0]])).tolist() == [[1.0, -4.0, 2.0, 0.0]]
    assert penalize(logits, seen, torch.tensor([[1.0]])).tolist() == logits.tolist()


def test_each_row_has_its_own_setting() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3)
    assert keep_top_k(logits, torch.tensor([[1], [0], [2]])).tolist() == [
        [NONE, NONE, 3.0],
        [1.0, 2.0, 3.0],
        [NONE, 2.0, 3.0],
    ]


@pytest.mark.parametrize(("keep", "off", "values"), FILTERS)
@given(data=st.data())
@settings(max_examples=30)
def test_every_filter(
    keep: Filter, off: float, values: st.SearchStrategy[float], data: st.DataObject
) -> None:
    """The likeliest stays, nothing that stays is less likely than what goes, rows are alone."""
    size = data.draw(st.integers(1, 8))
    logit = st.one_of(st.floats(-50, 50, width=32), st.integers(-2, 2).map(float))
    rows = data.draw(
        st.lists(st.lists(logit, min_size=size, max_size=size), min_size=1, max_size=4)
    )
    logits = torch.tensor(rows, dtype=torch.float32)
    value = torch.tensor([[data.draw(values)] for _ in rows])
    kept = keep(logits, value)
    stays = kept == logits
    assert (stays | (kept == NONE)).all()
    assert (stays | (logits < logits.amax(-1, keepdim=True))).all()
    for i in range(len(rows)):
        assert torch.equal(keep(logits[i : i + 1], value[i : i + 1]), kept[i : i + 1])
        assert logits[i][stays[i]].min() > logits[i][~stays[i]].max() if (~stays[i]).any() else True
    assert torch.equal(keep(logits, torch.full_like(value, off)), logits)


@given(data=st.data())
@settings(max_examples=40)
def test_draw_finds_the_place_among_the_chances(data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any))
    uniform = data.draw(st.integers(0, 2**32 - 1)) / 2**32
    logits = torch.tensor([weights], dtype=torch.float32).log()
    token = int(draw(logits, torch.tensor([[uniform]], dtype=torch.float64)))
    chances = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    assert weights[token] > 0
    assert float(chances[:token].sum()) <= uniform + 1e-6
    assert uniform <= float(chances[: token + 1].sum()) + 1e-6


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-32])
def test_draw_never_takes_what_was_filtered(uniform: float) -> None:
    logits = row(NONE, 0.0, NONE, 0.0, NONE)
    token = int(draw(logits, torch.tensor([[uniform]], dtype=torch.float64)))
    assert token == (3 if uniform else 1)
