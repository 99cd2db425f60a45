"""A reader: from a plan and a cursor, batch after batch, of all sources mixed by weight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.blocks import Group
from streamer.cursor import Cursor
from streamer.library import Library
from streamer.mix import schedule
from streamer.plan import Plan
from streamer.protocol import encode_frame
from streamer.sources.listing import Listing
from streamer.tokens import TextTokenizer, TokenArray
from streamer.walk import Walk


@dataclass(frozen=True)
class Share:
    """Which blocks of the order are asked for."""

    split: str
    """train or validation."""
    batch: int
    """Blocks of a step, over all ranks."""
    rank: int
    """Which contiguous part of each batch."""
    world: int
    """Number of parts, which divides the batch."""
    epochs: int | None
    """Passes over each source after which it ends, counted from epoch 0; None never ends."""


@dataclass(frozen=True)
class Span:
    """Blocks of one group, and the rows of a batch that they go to."""

    group: Group
    """Where they come from."""
    start: int
    """The first in the group's order; the others follow it."""
    rows: NDArray[np.int64]
    """Ascending, one a block."""

    def part(self, low: int, high: int) -> Span:
        """What falls into rows [low, high), counted from `low`."""
        first, last = np.searchsorted(self.rows, (low, high))
        return Span(self.group, self.start + int(first), self.rows[first:last] - low)

    def gather(self, rows: TokenArray, lengths: NDArray[np.int32]) -> None:
        """Copies the blocks to their rows of `rows` (B, T + 1) and `lengths` (B,)."""
        first, stop = int(self.rows[0]), int(self.rows[-1]) + 1
        end = self.start + len(self.rows)
        if stop - first == len(self.rows):
            self.group.gather(self.start, end, rows[first:stop], lengths[first:stop])
            return
        blocks = np.empty((len(self.rows), rows.shape[1]), rows.dtype)
        sizes = np.empty(len(self.rows), np.int32)
        self.group.gather(self.start, end, blocks, sizes)
        rows[self.rows], lengths[self.rows] = blocks, sizes


@dataclass(frozen=True)
class Step:
    """One rank's part of a batch, not yet gathered."""

    start: Cursor
    """Where the batch begins."""
    following: Cursor
    """Where the next one begins."""
    num_rows: int
    """Blocks of this part."""
    spans: Sequence[Span]
    """Where they come from and go to."""

    def frame(self, stream: int, width: int, dtype: str) -> bytes:
        """The data frame, with rows of `width` tokens."""
        rows = np.empty((self.num_rows, width), np.dtype(dtype))
        lengths = np.empty(self.num_rows, np.int32)
        for span in self.spans:
            span.gather(rows, lengths)
        return encode_frame(stream, self.start.payload(), self.following.payload(), rows, lengths)


class Reader:
    """Goes through the mix of all sources' walks from `cursor`.

    A source whose epochs are over is left out, and its share goes to the others by weight, from
    the very next block: the mix too depends on nothing but the cursor.
    """

    def __init__(
        self,
        library: Library,
        listings: Sequence[Listing],
        plan: Plan,
        tokenizer: TextTokenizer,
        share: Share,
        cursor: Cursor,
    ) -> None:
        self._share = share
        self._slot = cursor.slot
        self._weights = [listing.spec.weight for listing in listings]
        self._walks = [
            Walk(library, listing, i, plan, tokenizer, share.split, share.epochs, position)
            for i, (listing, position) in enumerate(zip(listings, cursor.sources, strict=True))
        ]

    @property
    def cursor(self) -> Cursor:
        """Where the next step begins."""
        return Cursor(self._slot, tuple(walk.position for walk in self._walks))

    async def begin(self) -> None:
        """Prepares the first groups; raises RequestError for a bad cursor or an empty split."""
        await asyncio.gather(*(walk.begin() for walk in self._walks))

    async def steps(self, count: int) -> list[Step]:
        """Up to `count` next steps: the first is waited for, the others taken if at hand.

        Empty at the end of the last epoch.
        """
        steps: list[Step] = []
        while len(steps) < count and (not steps or self._is_at_hand()):
            step = await self._step()
            if step is None:
                break
            steps.append(step)
        return steps

    def close(self) -> None:
        """Gives up what is being prepared for this reader alone."""
        for walk in self._walks:
            walk.close()

    async def _step(self) -> Step | None:
        start, wanted = self.cursor, self._share.batch
        spans: list[Span] = []
        num_rows = 0
        while num_rows < wanted and (taken := await self._take(wanted - num_rows, num_rows, spans)):
            num_rows += taken
        self._slot += num_rows
        if not num_rows:
            return None
        rank, world = self._share.rank, self._share.world
        low, high = num_rows * rank // world, num_rows * (rank + 1) // world
        parts = (span.part(low, high) for span in spans)
        return Step(start, self.cursor, high - low, [part for part in parts if len(part.rows)])

    async def _take(self, count: int, row: int, spans: list[Span]) -> int:
        """Adds spans of up to `count` blocks that go to rows from `row` on, and says how many.

        It stops after a source's last block, since from there on the mix is another one.
        """
        left = await asyncio.gather(*(walk.num_left(count + 1) for walk in self._walks))
        active = [source for source, num_left in enumerate(left) if num_left]
        if not active:
            return 0
        slots = schedule(self._slot + row, count, [self._weights[source] for source in active])
        chosen = [np.flatnonzero(slots == index) for index in range(len(active))]
        for source, at in zip(active, chosen, strict=True):
            if len(at) >= left[source]:
                count = min(count, int(at[left[source] - 1]) + 1)
        for source, at in zip(active, chosen, strict=True):
            rows = row + at[at < count]
            for group, first, last in await self._walks[source].take(len(rows)):
                spans.append(Span(group, first, rows[: last - first]))
                rows = rows[last - first :]
        return count

    def _is_at_hand(self) -> bool:
        return all(walk.is_end or walk.has_at_hand(self._share.batch) for walk in self._walks)
