"""Blocks: a shard's tokens cut into inputs and targets, and gathered in any order.

Of text every token is a target once. Of instructions, which are pairs of a prompt and a response,
a block holds whole pairs: `EOT prompt EOT response EOT prompt EOT response EOT`, then padding. So
the number of EOTs up to an input says what its target belongs to: odd a prompt, even a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from streamer.order import Order
from streamer.tokens import TokenArray

Span = tuple[int, int]
"""First token of a block in its shard, and the one after its last."""


def num_blocks(num_tokens: int, sequence_tokens: int) -> int:
    """Blocks of a shard: ceil((N - 1) / T), so that each token but the first is a target once."""
    return max(0, -(-(num_tokens - 1) // sequence_tokens))


class Group:
    """The blocks of a few shards in the order in which they are served.

    Block i of a shard holds its tokens [iT, iT + T], T + 1 of them; the last may be shorter.
    """

    def __init__(
        self, shards: Sequence[TokenArray], sequence_tokens: int, key: int | None, pad_id: int
    ) -> None:
        """`key` permutes the blocks of all shards together, None leaves them in order."""
        self.sequence_tokens = sequence_tokens
        self._shards = shards
        self._pad_id = pad_id
        counts = self._cut()
        self._starts = np.cumsum([0, *counts])  # (num_shards + 1,)
        self.num_blocks = int(self._starts[-1])
        self._order = Order(key, self.num_blocks)

    def _cut(self) -> list[int]:
        """Cuts the shards into blocks, and counts those of each."""
        self._whole = [_whole_blocks(tokens, self.sequence_tokens) for tokens in self._shards]
        return [num_blocks(tokens.size, self.sequence_tokens) for tokens in self._shards]

    def places(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of blocks [start, stop) of the order which shard each is in, and which one there."""
        order = self._order.part(start, stop)
        shard = np.searchsorted(self._starts, order, side="right") - 1  # (stop - start,)
        return shard, order - self._starts[shard]

    def gather(self, start: int, stop: int, rows: TokenArray, lengths: NDArray[np.int32]) -> None:
        """Copies blocks [start, stop) of the order into `rows` (stop - start, T + 1).

        `lengths` (stop - start,) gets the number of tokens of each; the rest is padding.
        """
        shard, block = self.places(start, stop)
        lengths[:] = self.sequence_tokens + 1
        for index in np.unique(shard):
            whole = self._whole[index]
            (at,) = np.nonzero(shard == index)
            wanted = block[at]
            if wanted.max() < len(whole):
                rows[at] = whole[wanted]
                continue
            inside = wanted < len(whole)
            rows[at[inside]] = whole[wanted[inside]]
            (last,) = at[~inside]
            tail = self._shards[index][len(whole) * self.sequence_tokens :]
            rows[last, : tail.size] = tail
            rows[last, tail.size :] = self._pad_id
            lengths[last] = tail.size


class Cuts(NamedTuple):
    """What of a shard's samples does not fit into a block."""

    num_cut: int
    """Responses that lose their end."""
    num_left_out: int
    """Samples whose prompt leaves no room for a response."""


class PackedGroup(Group):
    """The same of samples, pairs of a prompt and a response: a block holds as many whole ones as
    fit, in their order, behind an end-of-text."""

    cuts: list[Cuts]
    """Of each shard."""

    def _cut(self) -> list[int]:
        packed = [pack(tokens, self.sequence_tokens, self._pad_id) for tokens in self._shards]
        self._spans = [spans for spans, _ in packed]
        self.cuts = [cuts for _, cuts in packed]
        return [len(spans) for spans in self._spans]

    def gather(self, start: int, stop: int, rows: TokenArray, lengths: NDArray[np.int32]) -> None:
        """Copies blocks [start, stop) of the order, as `Group.gather` does."""
        chosen = zip(*self.places(start, stop), strict=True)
        for row, (shard, block) in enumerate(chosen):
            first, end = self._spans[shard][block]
            lengths[row] = end - first
            rows[row, : end - first] = self._shards[shard][first:end]
            rows[row, end - first :] = self._pad_id


def pack(tokens: TokenArray, sequence_tokens: int, eot_id: int) -> tuple[list[Span], Cuts]:
    """Where the blocks of a shard of samples begin and end, each with the end-of-text before it.

    A sample longer than a block is cut at its end, and left out where nothing but its prompt is
    left of it.
    """
    (ends,) = np.nonzero(tokens == eot_id)
    borders, middles = ends[::2], ends[1::2]  # (num_samples + 1,), (num_samples,)
    spans: list[Span] = []
    num_cut = num_left_out = first = 0
    while first < len(borders) - 1:
        start = int(borders[first])
        fitting = int(np.searchsorted(borders, start + sequence_tokens, side="right")) - 1
        if fitting > first:
            spans.append((start, int(borders[fitting]) + 1))
        elif middles[first] - start < sequence_tokens:
            spans.append((start, start + sequence_tokens + 1))
            num_cut += 1
        else:
            num_left_out += 1
        first = max(fitting, first + 1)
    return spans, Cuts(num_cut, num_left_out)


def _whole_blocks(tokens: TokenArray, sequence_tokens: int) -> TokenArray:
    """A view of the blocks that need no padding, shape (count, T + 1)."""
    count = max(0, (tokens.size - 1) // sequence_tokens)
    return as_strided(
        tokens,
        shape=(count, sequence_tokens + 1),
        strides=(sequence_tokens * tokens.itemsize, tokens.itemsize),
        writeable=False,
    )
