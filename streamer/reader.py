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

    def moved(self, num_rows: int) -> Span:
        """The same, further down."""
        return Span(self.group, self.start, self.rows + num_rows)

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


def joined(spans: Sequence[Span]) -> list[Span]:
    """The same blocks to the same rows, in as few spans as can be.

    One gather of many blocks costs little more than one of a few.
    """
    runs: dict[tuple[int, int], list[Span]] = {}  # by group and the block that would follow
    for span in spans:
        run = runs.pop((id(span.group), span.start), [])
        run.append(span)
        runs[id(span.group), span.start + len(span.rows)] = run
    return [
        Span(run[0].group, run[0].start, np.concatenate([span.rows for span in run]))
        for run in runs.values()
    ]


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


def make_message(steps: Sequence[Step], stream: int, width: int, dtype: str) -> bytes:
    """A message of the steps' data frames, with rows of `width` tokens."""
    ends = np.cumsum([step.num_rows for step in steps]).tolist()
    rows = np.empty((ends[-1], width), np.dtype(dtype))
    lengths = np.empty(ends[-1], np.int32)
    placed = zip(steps, ends, strict=True)
    spans = [span.moved(end - step.num_rows) for step, end in placed for span in step.spans]
    for span in joined(spans):
        span.gather(rows, lengths)
    return b"".join(
        encode_frame(
            stream,
            step.start.payload(),
            step.following.payload(),
            rows[end - step.num_rows : end],
            lengths[end - step.num_rows : end],
        )
        for step, end in zip(steps, ends, strict=True)
    )


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
        if world > 1:
            spans = [part for span in spans if len((part := span.part(low, high)).rows)]
        return Step(start, self.cursor, high - low, spans)

    async def _take(self, count: int, row: int, spans: list[Span]) -> int:
        """Adds spans of up to `count` blocks that go to rows from `row` on, and says how many.

        It stops after a source's last block, since from there on the mix is another one.
        """
        left = await self._num_left(count + 1)
        active = [source for source, num_left in enumerate(left) if num_left]
        if not active:
            return 0
        chosen = [np.arange(count)]
        if len(active) > 1:
            weights = [self._weights[source] for source in active]
            slots = schedule(self._slot + row, count, weights)
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

    async def _num_left(self, most: int) -> list[int]:
        """Blocks that each source has left, counted up to `most`."""
        if self._share.epochs is None:
            return [most] * len(self._walks)
        return await asyncio.gather(*(walk.num_left(most) for walk in self._walks))

    def _is_at_hand(self) -> bool:
        return all(walk.is_end or walk.has_at_hand(self._share.batch) for walk in self._walks)
