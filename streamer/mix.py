"""Mixing: which source each block comes from, a pure function of its number and the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, made odd."""
_LARGEST = 2.0**64 - 2.0**11
"""The double before 2**64, which is no 64-bit integer: of weights as 10**17 to 1, the first's share
is 1 in double precision."""


def schedule(slot: int, count: int, weights: Sequence[float]) -> NDArray[np.int64]:
    """The sources of blocks slot .. slot + count - 1, shape (count,), by weight.

    Block k goes to the first source i with (k * 0x9E3779B97F4A7C15 mod 2**64) / 2**64 <
    (w_0 + ... + w_i) / (w_0 + ... + w_n), in double precision, summed in order. Multiples of the
    golden ratio fill the unit interval as evenly as any sequence can (Knuth, The Art of Computer
    Programming 3, section 6.4, theorem S), so that every stretch of blocks has nearly the
    proportions of the weights.
    """
    sums = np.cumsum(np.array(weights, np.float64))
    bounds = np.minimum(np.floor(sums[:-1] / sums[-1] * 2.0**64), _LARGEST).astype(np.uint64)
    slots = np.arange(count, dtype=np.uint64) + np.uint64(slot)
    return np.searchsorted(bounds, slots * np.uint64(_GOLDEN), side="right")
