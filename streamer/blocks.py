"""Blocks: a shard's tokens cut into inputs and targets, and gathered in any order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from streamer.order import permutation
from streamer.tokens import TokenArray


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
        counts = [num_blocks(tokens.size, sequence_tokens) for tokens in shards]
        self._starts = np.cumsum([0, *counts])  # (num_shards + 1,)
        self.num_blocks = int(self._starts[-1])
        order = np.arange(self.num_blocks) if key is None else permutation(key, self.num_blocks)
        self._shard = np.searchsorted(self._starts, order, side="right") - 1  # (num_blocks,)
        self._block = order - self._starts[self._shard]  # (num_blocks,)
        self._whole = [_whole_blocks(tokens, sequence_tokens) for tokens in shards]

    def gather(self, start: int, stop: int, rows: TokenArray, lengths: NDArray[np.int32]) -> None:
        """Copies blocks [start, stop) of the order into `rows` (stop - start, T + 1).

        `lengths` (stop - start,) gets the number of tokens of each; the rest is padding.
        """
        shard, block = self._shard[start:stop], self._block[start:stop]
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


def _whole_blocks(tokens: TokenArray, sequence_tokens: int) -> TokenArray:
    """A view of the blocks that need no padding, shape (count, T + 1)."""
    count = max(0, (tokens.size - 1) // sequence_tokens)
    return as_strided(
        tokens,
        shape=(count, sequence_tokens + 1),
        strides=(sequence_tokens * tokens.itemsize, tokens.itemsize),
        writeable=False,
    )
