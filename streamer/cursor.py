"""A place in the order of a plan: all the state that a stream has."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import RequestError
from streamer.fields import Fields

MAX_COUNT = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly."""


@dataclass(frozen=True)
class Position:
    """Where one source goes on; always normal, so that one place has one name."""

    epoch: int = 0
    """Passes over the source that are complete."""
    group: int = 0
    """Groups of shards that are complete in this epoch."""
    block: int = 0
    """Blocks that are complete in this group."""

    def payload(self) -> dict[str, int]:
        """The JSON object."""
        return {"epoch": self.epoch, "group": self.group, "block": self.block}

    def next_group(self, num_groups: int) -> Position:
        """The start of the next group; that of the next epoch after the last."""
        if self.group + 1 < num_groups:
            return Position(self.epoch, self.group + 1)
        return Position(self.epoch + 1)

    def advance(self, num_taken: int, num_blocks: int, num_groups: int) -> Position:
        """The place after `num_taken` more of this group's `num_blocks`."""
        if self.block + num_taken < num_blocks:
            return Position(self.epoch, self.group, self.block + num_taken)
        return self.next_group(num_groups)


@dataclass(frozen=True)
class Cursor:
    """Where a stream goes on."""

    slot: int
    """Blocks handed out so far, over all sources and ranks."""
    sources: tuple[Position, ...]
    """One position a source, in the plan's order."""

    def payload(self) -> dict[str, object]:
        """The JSON object that batches carry and checkpoints keep."""
        return {"slot": self.slot, "sources": [position.payload() for position in self.sources]}


def parse_cursor(fields: Fields, num_sources: int) -> Cursor:
    """Reads a cursor; raises RequestError naming the field."""
    slot = fields.integer("slot", 0, MAX_COUNT)
    items = fields.sequence("sources")
    fields.done()
    if len(items) != num_sources:
        raise RequestError(
            "bad_request",
            fields.name("sources"),
            f"{fields.name('sources')} has {len(items)} positions for {num_sources} sources",
        )
    return Cursor(
        slot,
        tuple(
            _position(Fields(item, f"{fields.path}.sources.{index}"))
            for index, item in enumerate(items)
        ),
    )


def _position(fields: Fields) -> Position:
    position = Position(
        fields.integer("epoch", 0, MAX_COUNT),
        fields.integer("group", 0, MAX_COUNT),
        fields.integer("block", 0, MAX_COUNT),
    )
    fields.done()
    return position


def check_group(position: Position, source: int, num_groups: int) -> None:
    """Raises RequestError where a source's position lies beyond the last group."""
    if position.group >= num_groups:
        field = f"cursor.sources.{source}.group"
        raise RequestError(
            "out_of_range", field, f"{field} is beyond the last of {num_groups} groups"
        )


def check_block(position: Position, source: int, num_blocks: int) -> None:
    """Raises RequestError where a source's position lies beyond its group's last block."""
    if position.block and position.block >= num_blocks:
        field = f"cursor.sources.{source}.block"
        raise RequestError(
            "out_of_range", field, f"{field} is beyond the last of {num_blocks} blocks"
        )
