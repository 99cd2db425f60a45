"""Streamers that the jobs of a sweep have in common: each text is read and tokenized once.

They are started before the jobs are forked, so that a job knows them: `shared` is how it asks.
"""

from __future__ import annotations

import atexit
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babygpt_exp.data.config import DataConfig
from streamer.access import new_token
from streamer.embedded import EmbeddedStreamer, EmbeddedStreamerError

Key = tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]
"""Sources, and how they are read."""

_SHARED: dict[Key, EmbeddedStreamer] = {}


@dataclass(frozen=True)
class Address:
    """Where a streamer is."""

    url: str
    """Its address."""
    token: str
    """The secret that it asks for."""


_KNOWN: dict[Key, Address] = {}
"""Of a sweep that another process runs."""


def shared(sources: list[str], options: dict[str, Any]) -> Address | None:
    """The streamer that serves these sources to all jobs; None if there is no such sweep."""
    key = key_of(sources, options)
    server = _SHARED.get(key)
    return Address(server.url, server.token) if server is not None else _KNOWN.get(key)


def addresses() -> list[tuple[Key, Address]]:
    """What to tell processes that this one starts, for `know`."""
    return [(key, Address(server.url, server.token)) for key, server in _SHARED.items()]


def know(found: list[tuple[Key, Address]]) -> None:
    """Take over the `addresses` of the process that has started this one."""
    _KNOWN.update(found)


def key_of(sources: list[str], options: dict[str, Any]) -> Key:
    """What a streamer is known by."""
    return tuple(sources), tuple(sorted(options.items()))


class SharedStreamers:
    """The streamers of a sweep, until the process ends."""

    def __init__(self, folder: Path) -> None:
        self.log_path = folder / "streamer.log"
        atexit.register(self.close)

    def serve(self, data: DataConfig) -> None:
        """Start what data needs, unless it runs already. One that does not start is not shared:
        the job starts its own, and tells of what is wrong."""
        for sources in (data.embedded_sources, data.validation_sources):
            key = key_of(sources, data.embedded_options)
            if not sources or key in _SHARED:
                continue
            server = EmbeddedStreamer(
                sources, token=new_token(), log_path=self.log_path, **data.embedded_options
            )
            try:
                _SHARED[key] = server.__enter__()
            except EmbeddedStreamerError:
                continue

    def restart_ended(self) -> None:
        """Start those again that have ended, at the same address: their clients come back. One that
        can not be is let be, and its jobs fail when they have waited long enough."""
        for server in _SHARED.values():
            try:
                server.restart_if_ended()
            except EmbeddedStreamerError as error:
                print(f"note: the sweep's streamer ended: {error}", file=sys.stderr)

    def close(self) -> None:
        """End them."""
        while _SHARED:
            _SHARED.popitem()[1].close()
