"""Blocks of the stream as micro-batches: nothing is lost, nothing counts twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.data.batches import MicroBatch, split
from babygpt_exp.model import IGNORE
from streamer.client import Batch

CURSOR: dict[str, Any] = {"epoch": 0, "group": 1, "block": 2}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches as a stream gives them: T + 1 tokens a row, the last rows shorter."""
    rows, width = draw(st.integers(1, 9)), draw(st.integers(2, 8))
    lengths = draw(st.lists(st.integers(2, width), min_size=rows, max_size=rows))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from([np.uint16, np.uint32]))
    tokens = generator.integers(0, 60_000, (rows, width)).astype(dtype)
    return new_batch(tokens, np.array(lengths))


def new_batch(tokens: np.ndarray, lengths: np.ndarray) -> Batch:
    """A batch with these blocks, whatever else a batch has."""
    values: dict[str, Any] = {"tokens": tokens, "lengths": lengths, "next": CURSOR}
    rest = {f.name: None for f in dataclasses.fields(Batch) if f.name not in values}
    return Batch(**values, **rest)


def joined(parts: list[MicroBatch], name: str) -> torch.Tensor:
    return torch.cat([getattr(part, name) for part in parts])


@given(batch=batches(), rows=st.integers(1, 10))
def test_targets_are_the_next_tokens(batch: Batch, rows: int) -> None:
    parts = list(split(batch, rows))
    tokens, targets = joined(parts, "tokens"), joined(parts, "targets")
    for row, length in enumerate(batch.lengths):
        count = int(length) - 1
        expected = torch.from_numpy(batch.tokens[row].astype(np.int64))
        assert torch.equal(tokens[row], expected[:-1])
        assert torch.equal(targets[row, :count], expected[1 : count + 1])
        assert (targets[row, count:] == IGNORE).all()


@given(batch=batches(), rows=st.integers(1, 10))
def test_rows_that_fill_up_count_nothing(batch: Batch, rows: int) -> None:
    parts = list(split(batch, rows))
    assert {tuple(part.tokens.shape) for part in parts} == {(rows, batch.tokens.shape[1] - 1)}
    assert {part.tokens.dtype for part in parts} == {torch.int64}
    assert (joined(parts, "targets")[len(batch.tokens) :] == IGNORE).all()
    assert (len(parts) - 1) * rows < len(batch.tokens) <= len(parts) * rows


@given(batch=batches(), rows=st.integers(1, 10))
def test_counts(batch: Batch, rows: int) -> None:
    parts = list(split(batch, rows))
    for part in parts:
        assert part.num_targets == int((part.targets != IGNORE).sum())
    total = int((batch.lengths - 1).sum())
    assert sum(part.num_targets for part in parts) == total
    assert {part.share_targets for part in parts} == {total / len(parts)}


@given(batch=batches(), rows=st.integers(1, 10), seed=st.integers(0, 2**16))
def test_mean_of_the_parts_is_the_mean_of_the_batch(batch: Batch, rows: int, seed: int) -> None:
    parts = list(split(batch, rows))
    nats = torch.rand(
        joined(parts, "targets").shape, generator=torch.Generator().manual_seed(seed)
    ).double()
    counted = joined(parts, "targets") != IGNORE
    whole = nats[counted].mean()
    shares = [
        (n * c).sum() / part.share_targets
        for n, c, part in zip(nats.split(rows), counted.split(rows), parts, strict=True)
    ]
    assert float(sum(shares) / len(parts)) == pytest.approx(float(whole))


@given(batch=batches(), rows=st.integers(1, 10))
def test_cursor_is_in_the_last_part_alone(batch: Batch, rows: int) -> None:
    *before, last = split(batch, rows)
    assert last.next == CURSOR
    assert all(part.next is None for part in before)


def test_largest_token_survives() -> None:
    batch = new_batch(np.array([[1, 2**32 - 1, 65_536]], dtype=np.uint32), np.array([3]))
    (part,) = split(batch, 1)
    assert part.targets.tolist() == [[2**32 - 1, 65_536]]


def test_parts_do_not_share_memory() -> None:
    batch = new_batch(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint16), np.array([3, 3]))
    first, second = split(batch, 1)
    first.tokens.zero_()
    assert first.targets.tolist() == [[2, 3]]
    assert second.tokens.tolist() == [[4, 5]]
    assert batch.tokens.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_to_a_device_keeps_the_rest() -> None:
    batch = new_batch(np.array([[1, 2, 3]], dtype=np.uint16), np.array([2]))
    (part,) = split(batch, 1)
    moved = part.to(torch.device("meta"))
    assert moved.tokens.device.type == "meta"
    assert moved.targets.device.type == "meta"
    assert (moved.num_targets, moved.share_targets, moved.next) == (1, 1.0, CURSOR)
