"""A reader: from a plan and a cursor, batch after batch, across groups and epochs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import numpy as np

from streamer.blocks import Group
from streamer.cursor import Cursor, Position, check_block, check_group
from streamer.errors import RequestError
from streamer.library import Library
from streamer.plan import Plan
from streamer.protocol import encode_frame
from streamer.sources.listing import Listing
from streamer.tokens import TextTokenizer


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
    """Passes after which it ends, counted from epoch 0; None never ends."""


@dataclass(frozen=True)
class Step:
    """One rank's part of a batch, not yet gathered."""

    start: Cursor
    """Where the batch begins."""
    following: Cursor
    """Where the next one begins."""
    spans: tuple[tuple[Group, int, int], ...]
    """Runs of positions in a group's order."""

    def frame(self, stream: int, width: int, dtype: str) -> bytes:
        """The data frame, with rows of `width` tokens."""
        num_rows = sum(stop - start for _, start, stop in self.spans)
        rows = np.empty((num_rows, width), np.dtype(dtype))
        lengths = np.empty(num_rows, np.int32)
        done = 0
        for group, start, stop in self.spans:
            end = done + stop - start
            group.gather(start, stop, rows[done:end], lengths[done:end])
            done = end
        return encode_frame(stream, self.start.payload(), self.following.payload(), rows, lengths)


class Reader:
    """Walks through the order from `cursor`; prepares the next group while one is served."""

    def __init__(
        self,
        library: Library,
        listing: Listing,
        plan: Plan,
        tokenizer: TextTokenizer,
        share: Share,
        cursor: Cursor,
    ) -> None:
        self._library = library
        self._listing = listing
        self._plan = plan
        self._tokenizer = tokenizer
        self._spec = replace(plan.train_spec, split=share.split)
        self._share = share
        self.cursor = cursor
        self._num_groups = -(-len(listing.shards) // plan.shuffle_shards)
        self._groups: dict[Position, asyncio.Task[Group]] = {}
        check_group(cursor, 0, self._num_groups)

    async def begin(self) -> None:
        """Prepares the first group; raises RequestError for a cursor beyond it or an empty split.

        Without this check an endless stream over a split without text would never say a word.
        """
        place = self.cursor.sources[0]
        if self._is_end(place):
            return
        check_block(self.cursor, 0, (await self._group(place)).num_blocks)
        # The rest of this epoch and all of the next, whose order is another one.
        last_epoch, place = place.epoch + 1, Position(place.epoch, place.group)
        while place.epoch <= last_epoch:
            if (await self._group(place)).num_blocks:
                return
            place = place.next_group(self._num_groups)
        raise _empty_split(self._share.split)

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
        for task in self._groups.values():
            task.cancel()

    async def _step(self) -> Step | None:
        start, place = self.cursor, self.cursor.sources[0]
        wanted, spans = self._share.batch, []
        while wanted and not self._is_end(place):
            group = await self._group(place)
            count = min(wanted, group.num_blocks - place.block)
            spans.append((group, place.block, place.block + count))
            place = place.advance(count, group.num_blocks, self._num_groups)
            wanted -= count
        num_rows = self._share.batch - wanted
        self.cursor = Cursor(start.slot + num_rows, (place,))
        if not num_rows:
            return None
        rank, world = self._share.rank, self._share.world
        part = _cut(spans, num_rows * rank // world, num_rows * (rank + 1) // world)
        return Step(start, self.cursor, part)

    def _is_end(self, place: Position) -> bool:
        return self._share.epochs is not None and place.epoch >= self._share.epochs

    def _is_at_hand(self) -> bool:
        place = self.cursor.sources[0]
        task = self._groups.get(Position(place.epoch, place.group))
        return (
            task is not None
            and task.done()
            and not task.cancelled()
            and task.exception() is None
            and task.result().num_blocks - place.block >= self._share.batch
        )

    async def _group(self, place: Position) -> Group:
        current = Position(place.epoch, place.group)
        following = current.next_group(self._num_groups)
        group = await self._start(current)
        for position in list(self._groups):
            if position not in (current, following):
                self._groups.pop(position).cancel()
        if not self._is_end(following):
            self._start(following)
        return group

    def _start(self, position: Position) -> asyncio.Task[Group]:
        if position not in self._groups:
            task = asyncio.create_task(
                self._library.group(
                    self._listing, self._plan, self._spec, self._tokenizer, position
                )
            )
            # One that fails before it is reached must not be reported as forgotten.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._groups[position] = task
        return self._groups[position]


def _cut(
    spans: list[tuple[Group, int, int]], low: int, high: int
) -> tuple[tuple[Group, int, int], ...]:
    """The parts of `spans` that hold rows [low, high) of all their rows."""
    kept = []
    offset = 0
    for group, start, stop in spans:
        first, last = max(low - offset, 0), min(high - offset, stop - start)
        if first < last:
            kept.append((group, start + first, start + last))
        offset += stop - start
    return tuple(kept)


def _empty_split(split: str) -> RequestError:
    if split == "validation":
        advice = "raise the validation fraction or give more documents"
    else:
        advice = "lower the validation fraction or give more documents"
    return RequestError(
        "empty_split",
        "plan.validation.fraction",
        f"no document of the corpus falls into the {split} split; {advice}",
    )
