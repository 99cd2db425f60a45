"""Validation text, known again by its words however a server cuts it the next time.

A sample that comes again as it was is in the same split by its hash. But a server that cuts its
text at the borders of requests sends other samples after it was rewound, or has begun again, and
most of the validation text would be trained on then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

RUN_WORDS = 16
"""Words in a row that are hardly ever the same in two texts by chance. Shorter pieces are not
known again, nor kept where both sides of them are cut away."""
_POWERS = np.array([pow(0x9E3779B97F4A7C15, n, 1 << 64) for n in range(RUN_WORDS)], np.uint64)


class HeldOut:
    """The runs of words of all validation text that was read."""

    def __init__(self) -> None:
        self._runs = np.empty(0, np.uint64)  # sorted

    def add(self, texts: Iterable[str]) -> None:
        """Makes texts known."""
        self._runs = np.unique(np.concatenate([self._runs, *(_runs(t.split()) for t in texts)]))

    def without(self, text: str) -> list[str]:
        """A text, or what is left of it, piece by piece, without runs of held-out words."""
        words = text.split()
        is_known = self._is_known(_runs(words))
        if not is_known.any():
            return [text]
        is_cut = np.zeros(len(words), bool)
        for offset in range(RUN_WORDS):
            is_cut[offset : offset + is_known.size] |= is_known
        edges = np.flatnonzero(np.diff(is_cut, prepend=True, append=True))
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        return [
            text[spans[start][0] : spans[stop - 1][1]]
            for start, stop in edges.reshape(-1, 2).tolist()
            if stop - start >= RUN_WORDS
        ]

    def _is_known(self, runs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not self._runs.size:
            return np.zeros(runs.size, bool)
        places = np.searchsorted(self._runs, runs).clip(max=self._runs.size - 1)
        found: NDArray[np.bool_] = self._runs[places] == runs
        return found


def _runs(words: Sequence[str]) -> NDArray[np.uint64]:
    """A hash of each run of words, (num_words - RUN_WORDS + 1,) or none."""
    if len(words) < RUN_WORDS:
        return np.empty(0, np.uint64)
    hashes = np.array([hash(word) for word in words], np.int64).view(np.uint64)
    found: NDArray[np.uint64] = sliding_window_view(hashes, RUN_WORDS) @ _POWERS
    return found
