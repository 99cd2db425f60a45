"""Keys and values of texts that are being written, and where new tokens stand among them.

A `Cache` is made once, with a slot for each text, and never changes its shape. `hidden` is told by
a `Place` where its tokens stand: a `Piece` is consecutive tokens of one slot, a `Step` is one token
for each slot, at positions of their own.

Shapes: B slots, T positions, H heads, D channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SPAN_POSITIONS = 64
"""Fewest positions that a `Step` attends over; others are this, doubled."""

Run = tuple[int, int, int]
"""First slot, end, and number of positions that these slots attend over."""


class Cache:
    """Keys and values, (B, H, context, D) for each block."""

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
            for _ in range(2)
        )
        num_slots, num_heads, context, _ = shape
        heads = torch.arange(num_slots * num_heads, device=device).view(num_slots, num_heads)
        self.rows = heads * context
        """Where each head of each slot begins among all rows of D channels: (B, H)."""
        self.positions = torch.arange(context, device=device)


class Place(ABC):
    """Where the tokens of a call stand, and over what they attend."""

    cache: Cache
    positions: Tensor
    """Of the tokens: (T,), or (B, 1)."""

    def rows(self, table: Tensor) -> Tensor:
        """Rows of a table (context, C), that broadcast with (B, H, T, C)."""
        rows = table[self.positions]
        return rows if rows.ndim == 2 else rows.unsqueeze(1)

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Attention of q over all that was and is, of block `layer`; keeps k and v; (B, H, T, D).

        Autocast has no part in it: it would turn the cache into another type every time.
        """


class Piece(Place):
    """Tokens (1, T) of one slot, from position `start` on; what stood there or later is gone."""

    def __init__(self, cache: Cache, slot: int, start: int, num_tokens: int) -> None:
        self.cache, self.slot, self.start, self.end = cache, slot, start, start + num_tokens
        self.positions = cache.positions[start : self.end]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        keys, values = self.cache.keys[layer][self.slot], self.cache.values[layer][self.slot]
        keys[:, self.start : self.end] = k[0]
        values[:, self.start : self.end] = v[0]
        if self.start == 0:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        k, v = keys[None, :, : self.end], values[None, :, : self.end]
        mask = self.cache.positions[: self.end] <= self.positions[:, None]  # (T, end)
        with torch.autocast(q.device.type, enabled=False):
            return F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask).to(q.dtype)


class Step(Place):
    """Tokens (B, 1), one a slot, each at its slot's own position.

    `runs` are neighbouring slots that attend over equally many positions, as `runs_of` finds
    them: first slot, end, and number of positions.
    """

    def __init__(self, cache: Cache, positions: Tensor, runs: Sequence[Run]) -> None:
        self.cache, self.positions, self.runs = cache, positions, runs
        self.targets = (cache.rows + positions).flatten()  # (B * H,)
        seen = cache.positions[: max(size for _, _, size in runs)] <= positions  # (B, size)
        mask = torch.zeros(seen.shape, dtype=cache.keys[0].dtype, device=seen.device)
        self.mask = mask.masked_fill(~seen, -torch.inf)[:, None, None]  # (B, 1, 1, size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        width = q.size(3)
        keys.view(-1, width).index_copy_(0, self.targets, k.to(keys.dtype).reshape(-1, width))
        values.view(-1, width).index_copy_(0, self.targets, v.to(keys.dtype).reshape(-1, width))
        queries = q.to(keys.dtype)
        with torch.autocast(q.device.type, enabled=False):
            parts = [
                attend_over(
                    queries[first:end],
                    keys[first:end, :, :size],
                    values[first:end, :, :size],
                    self.mask[first:end, :, :, :size],
                )
                for first, end, size in self.runs
            ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(q.dtype)


def attend_over(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of one query each (B, H, 1, D) over k and v (B, H, T, D), with a mask to add.

    On a CPU a compiler makes loops over keys and values of it that add up in float32.
    """
    if not torch.compiler.is_compiling() or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q.float() * k.float()).sum(-1, keepdim=True).mT  # (B, H, 1, T)
    chances = (scores * q.size(3) ** -0.5 + mask).softmax(-1)
    return (chances.mT * v.float()).sum(2, keepdim=True)


def span(num_positions: int, context: int) -> int:
    """Positions to attend over for a text that fills `num_positions`."""
    size = SPAN_POSITIONS
    while size < num_positions:
        size *= 2
    return min(size, context)


def runs_of(positions: Sequence[int], context: int) -> tuple[Run, ...]:
    """Runs of slots for a `Step`: each attends over what its own text fills, rounded up.

    What the neighbours need has no part in what is computed for a slot.
    """
    spans = [span(position + 1, context) for position in positions]
    starts = [i for i, size in enumerate(spans) if i == 0 or size != spans[i - 1]]
    ends = [*starts[1:], len(spans)]
    return tuple((start, end, spans[start]) for start, end in zip(starts, ends, strict=True))


def one_run(positions: Sequence[int], context: int) -> tuple[Run, ...]:
    """All slots in one run, as wide as the longest needs: few shapes, for a compiler."""
    return ((0, len(positions), span(max(positions) + 1, context)),)
