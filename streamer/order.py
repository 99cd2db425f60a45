"""The order in which shards and blocks are visited: a keyed permutation, nothing to store.

All of it is arithmetic on unsigned 64-bit integers that wraps around, so any language can
repeat it. The finaliser is that of SplitMix64 (https://prng.di.unimi.it/splitmix64.c).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF

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
    that is splitmix64(key + i * 0x9E3779B97F4A7C15 mod 2**64). The permutation is the stable
    ascending argsort of r: position p holds the index with the p-th smallest r.
    """
    steps = np.arange(1, size + 1, dtype=np.uint64)
    z = np.uint64(key) + steps * np.uint64(_GOLDEN)  # (size,)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z = z ^ (z >> np.uint64(31))
    return np.argsort(z, kind="stable")
