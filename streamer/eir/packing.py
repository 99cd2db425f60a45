"""Packing on the client: from documents' tokens to batches of blocks, nothing lost between."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streamer.tokens import TokenArray

Packed = tuple[TokenArray, NDArray[np.int32]]
"""Blocks (rows, T + 1) and the number of valid tokens of each (rows,)."""


class Packer:
    """Cuts one endless text into blocks of T + 1 tokens that overlap by one.

    The text is end-of-text, a document, end-of-text, a document, ... whatever requests the
    documents came with, so that every token but the first is a target exactly once. It goes on
    over the end of an epoch; only the end of the stream is padded.
    """

    def __init__(self, *, sequence_tokens: int, eot_id: int, dtype: str, batch: int) -> None:
        self.sequence_tokens = sequence_tokens
        self.batch = batch
        self._eot = np.array([eot_id], dtype)
        self._rest: TokenArray = self._eot

    def add(self, documents: Iterable[list[int]]) -> list[Packed]:
        """The whole batches that these documents complete."""
        parts = [self._rest]
        for ids in documents:
            parts += (np.array(ids, self._eot.dtype), self._eot)
        tokens = np.concatenate(parts)
        size = self.batch * self.sequence_tokens
        num_batches = (tokens.size - 1) // size
        self._rest = tokens[num_batches * size :].copy()
        return [self._cut(tokens[n * size : (n + 1) * size + 1]) for n in range(num_batches)]

    def finish(self) -> list[Packed]:
        """What is left, as one batch of fewer blocks whose last is padded; none if nothing is."""
        num_targets = self._rest.size - 1
        if not num_targets:
            return []
        num_missing = -num_targets % self.sequence_tokens
        padding = np.repeat(self._eot, num_missing)
        blocks, lengths = self._cut(np.concatenate([self._rest, padding]))
        lengths[-1] -= num_missing
        self._rest = self._eot
        return [(blocks, lengths)]

    def _cut(self, tokens: TokenArray) -> Packed:
        width = self.sequence_tokens + 1
        blocks = sliding_window_view(tokens, width)[:: self.sequence_tokens].copy()
        return blocks, np.full(len(blocks), width, np.int32)
