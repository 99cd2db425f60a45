"""A walk: one source's blocks in the order of a plan, across groups and epochs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from streamer.blocks import Group
from streamer.cursor import Position, check_block, check_group
from streamer.errors import RequestError
from streamer.library import Library
from streamer.plan import Plan
from streamer.sources.listing import Listing
from streamer.tokens import TextTokenizer

Run = tuple[Group, int, int]
"""Positions [start, stop) in a group's order."""


class Walk:
    """Goes on from `position`; prepares the next group while one is served."""

    def __init__(
        self,
        library: Library,
        listing: Listing,
        source: int,
        plan: Plan,
        tokenizer: TextTokenizer,
        split: str,
        epochs: int | None,
        position: Position,
    ) -> None:
        """Raises RequestError for a position beyond the last group."""
        self.position = position
        self._library = library
        self._listing = listing
        self._source = source
        self._plan = plan
        self._tokenizer = tokenizer
        self._spec = replace(plan.train_spec, split=split)
        self._epochs = epochs
        self._num_groups = -(-len(listing.shards) // plan.shuffle_shards)
        self._groups: dict[Position, asyncio.Task[Group]] = {}
        self._group: Group | None = None
        check_group(position, source, self._num_groups)

    async def begin(self) -> None:
        """Prepares the first group; raises RequestError for a block beyond it or an empty split.

        Without this check an endless stream over a split without text would never say a word.
        """
        place = self.position
        if self.is_end:
            return
        check_block(place, self._source, (await self._enter(place)).num_blocks)
        # The rest of this epoch and all of the next, whose order is another one.
        last_epoch, place = place.epoch + 1, Position(place.epoch, place.group)
        while place.epoch <= last_epoch:
            if (await self._enter(place)).num_blocks:
                return
            place = place.next_group(self._num_groups)
        raise _empty_split(self._spec.split, self._listing.name)

    @property
    def is_end(self) -> bool:
        """Whether all epochs that were asked for are over."""
        return self._is_end(self.position)

    async def num_left(self, most: int) -> int:
        """Blocks until the end, counted up to `most`; at the end of all text that is the end."""
        count, place = 0, self.position
        while count < most and not self._is_end(place):
            group = await self._start(Position(place.epoch, place.group))
            count += group.num_blocks - place.block
            place = place.next_group(self._num_groups)
        if not count:
            self.position = place
        return min(count, most)

    async def take(self, count: int) -> list[Run]:
        """The next `count` blocks, fewer only at the end."""
        runs: list[Run] = []
        while count and not self.is_end:
            place = self.position
            group = self._group or await self._enter(place)
            taken = min(count, group.num_blocks - place.block)
            if taken:
                runs.append((group, place.block, place.block + taken))
            self.position = place.advance(taken, group.num_blocks, self._num_groups)
            self._group = group if self.position.block else None
            count -= taken
        return runs

    def has_at_hand(self, count: int) -> bool:
        """Whether more than `count` blocks of the group that is being served are left."""
        return self._group is not None and self._group.num_blocks - self.position.block > count

    def close(self) -> None:
        """Gives up what is being prepared for this walk alone."""
        for task in self._groups.values():
            task.cancel()

    def _is_end(self, place: Position) -> bool:
        return self._epochs is not None and place.epoch >= self._epochs

    async def _enter(self, place: Position) -> Group:
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
                    self._listing, self._source, self._plan, self._spec, self._tokenizer, position
                )
            )
            # One that fails before it is reached must not be reported as forgotten.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._groups[position] = task
        return self._groups[position]


def _empty_split(split: str, name: str) -> RequestError:
    advice = "raise" if split == "validation" else "lower"
    return RequestError(
        "empty_split",
        "plan.validation.fraction",
        f"no document of {name} falls into the {split} split; "
        f"{advice} the validation fraction or give more documents",
    )
