"""The order in which shards and blocks are visited: a keyed permutation, nothing to store.

All of it is arithmetic on unsigned 64-bit integers that wraps around, so any language can
repeat it. The finaliser is that of SplitMix64 (https://prng.di.unimi.it/splitmix64.c).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF
_LOW_BITS = (1 << 33) - 1

CHUNK = 1 << 15
"""Outputs computed at once: two arrays of them fit into a core's cache."""
WINDOW = 1 << 12
"""Positions of an order that are at hand at once, at least ..."""
MAX_WINDOWS = 128
"""... and so many that this is how often all outputs are computed in a whole order, at most."""
MARGIN = 4
"""Outputs sought on either side of a part, in square roots of their number: eight standard
deviations or more."""

SHARDS = 0
"""What is permuted: the shards of an epoch. The blocks of group g are number g + 1."""


def splitmix64(state: int) -> int:
    """The next output of a SplitMix64 generator in `state`."""
    z = (state + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def permutation_key(seed: int, epoch: int, what: int, source: int = 0) -> int:
    """splitmix64(splitmix64(splitmix64(seed) ^ epoch ^ source * 2**48) ^ what), a 64-bit key.

    `what` is 0 for the shards of the epoch and g + 1 for the blocks of its g-th group; `source`
    counts the sources of a mix from 0.
    """
    return splitmix64(splitmix64(splitmix64(seed) ^ epoch ^ (source << 48)) ^ what)


def permutation(key: int, size: int) -> NDArray[np.int64]:
    """A permutation of 0 .. size-1, shape (size,).

    Let r[i] be the i-th output (from 0) of a SplitMix64 generator that starts in state `key`,
    that is splitmix64(key + i * 0x9E3779B97F4A7C15 mod 2**64). The permutation is the ascending
    argsort of r: position p holds the index with the p-th smallest r. No two are the same, since
    the finaliser is a bijection.
    """
    return np.argsort(_finished(_mixed(key, 0, *np.empty((2, size), np.uint64))))


def permutation_part(key: int, size: int, start: int, stop: int) -> NDArray[np.int64]:
    """Positions [start, stop) of the same permutation: one pass over r, and little memory.

    The p-th smallest of `size` outputs that are spread evenly lies near 2**64 * p / size. Those
    near the part are kept and sorted, those below counted, so that it is known, not assumed, that
    none is missing; where one is, the bounds were too narrow.
    """
    start, stop = max(0, start), min(size, stop)
    margin = MARGIN * (4 + math.isqrt(size))
    while start < stop:
        low = max(0, (start - margin) * (_MASK + 1) // size)
        high = min(_MASK, (stop + margin) * (_MASK + 1) // size)
        num_below, outputs, indices = _between(key, size, low, high)
        if num_below <= start and stop <= num_below + len(indices):
            return indices[np.argsort(outputs)[start - num_below : stop - num_below]]
        margin = 4 * margin + 1
    return np.empty(0, np.int64)


def _between(
    key: int, size: int, low: int, high: int
) -> tuple[int, NDArray[np.uint64], NDArray[np.int64]]:
    """How many outputs are below `low`, and those up to `high` with their indices.

    Both bounds are moved outwards to multiples of 2**33: the last step leaves bits 33 to 63 as they
    are, so that it is done for few.
    """
    low, high = low & ~_LOW_BITS, high | _LOW_BITS
    buffers = np.empty((2, min(size, CHUNK)), np.uint64)
    num_below, outputs, indices = 0, [], []
    for first in range(0, size, CHUNK):
        z, spare = buffers[:, : size - first]
        _mixed(key, first, z, spare)
        if low:
            num_below += int(np.count_nonzero(z < np.uint64(low)))
        np.subtract(z, np.uint64(low), out=spare)
        at = np.flatnonzero(spare <= np.uint64(high - low))
        outputs.append(_finished(z[at]))
        indices.append(at + first)
    return num_below, np.concatenate(outputs), np.concatenate(indices)


def _mixed(
    key: int, first: int, z: NDArray[np.uint64], spare: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Fills `z` (count,) with outputs first .. first + count - 1 but for the last step."""
    steps = _STEPS if z.size <= CHUNK else np.arange(1, z.size + 1, dtype=np.uint64) * _GOLDEN_64
    np.add(steps[: z.size], np.uint64((key + first * _GOLDEN) & _MASK), out=z)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        np.right_shift(z, np.uint64(shift), out=spare)
        np.bitwise_xor(z, spare, out=z)
        np.multiply(z, np.uint64(factor), out=z)
    return z


def _finished(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step."""
    return z ^ (z >> np.uint64(31))


_GOLDEN_64 = np.uint64(_GOLDEN)
_STEPS = np.arange(1, CHUNK + 1, dtype=np.uint64) * _GOLDEN_64


class Order:
    """A permutation of which only what was asked for last is at hand, a window.

    So its start costs one pass and not a sort, and its memory does not grow with its size until
    that is millions. It may be used by several threads.
    """

    def __init__(self, key: int | None, size: int) -> None:
        """Without `key` it is the natural order."""
        self.size = size
        self._key = key
        self._window_size = max(WINDOW, -(-size // MAX_WINDOWS))
        self._window: tuple[int, NDArray[np.int64]] = 0, np.empty(0, np.int64)

    def part(self, start: int, stop: int) -> NDArray[np.int64]:
        """What stands at positions [start, stop), shape (stop - start,)."""
        stop = min(stop, self.size)
        if self._key is None:
            return np.arange(start, stop)
        parts = []
        while start < stop:
            first, window = self._window_at(start)
            parts.append(window[start - first : stop - first])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.int64)])

    def _window_at(self, position: int) -> tuple[int, NDArray[np.int64]]:
        first, window = self._window
        if not first <= position < first + len(window):
            assert self._key is not None
            # A little before it: others may be a few steps behind, and most go on from here.
            first = max(0, position - self._window_size // 8)
            if self.size <= self._window_size:
                first = 0
                window = permutation(self._key, self.size)
            else:
                window = permutation_part(self._key, self.size, first, first + self._window_size)
            self._window = first, window
        return first, window
