"""What a server counts: plain numbers of its event loop's thread."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamer.cursor import Cursor
from streamer.errors import RequestError
from streamer.logs import event

HISTORY_SECONDS = 180
"""How far back the rates of the status page go."""
RATE_SECONDS = 10
"""Time over which a rate is averaged."""
KEPT_ERRORS = 8
"""Errors that the status page shows."""
STATES = ("opening", "credit", "data", "sending")
"""What a stream waits for: its first data, its client's trainer, a shard, the network."""
ENDED = "ended"


@dataclass(frozen=True)
class ErrorRecord:
    """An error that a client was told."""

    time: float
    """Seconds since 1970."""
    peer: str
    """Address of the client."""
    code: str
    """A word of protocol.ERROR_CODES."""
    field: str
    """The field to blame."""
    message: str
    """One line."""


@dataclass(eq=False)
class StreamRecord:
    """An open stream, as its feed sees it."""

    metrics: Metrics
    """Where everything is summed up."""
    peer: str
    """Address of the client."""
    stream: int
    """The client's number of it."""
    split: str
    """train or validation."""
    batch: int
    """Blocks of a global batch."""
    rank: int
    """Which part of a batch it sends."""
    world: int
    """Of how many parts."""
    plan_id: str = ""
    """Known once it is open."""
    cursor: Cursor | None = None
    """After the last frame sent."""
    num_tokens: int = 0
    """Tokens sent: blocks times the sequence length."""
    num_frames: int = 0
    """Frames sent."""
    state: str = "opening"
    """A word of STATES."""
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=RATE_SECONDS + 1))
    """num_tokens, once a second."""
    began: float = field(default_factory=time.monotonic)
    """When it was asked for, on the monotonic clock."""
    _entered: float = field(default_factory=time.perf_counter)

    def opened(self, plan_id: str, cursor: Cursor) -> None:
        """Notes what is going to be sent."""
        self.plan_id, self.cursor = plan_id, cursor
        self.metrics.num_opens += 1

    def enter(self, state: str) -> None:
        """Notes what the stream waits for from now on; ENDED for nothing any more."""
        now = time.perf_counter()
        if self.state != ENDED:
            self.metrics.wait_seconds[self.state] += now - self._entered
        self.state, self._entered = state, now

    def sent(self, num_frames: int, num_tokens: int, num_bytes: int, cursor: Cursor) -> None:
        """Counts the frames of a message."""
        self.num_tokens += num_tokens
        self.num_frames += num_frames
        self.cursor = cursor
        self.metrics.num_tokens += num_tokens
        self.metrics.num_frames += num_frames
        self.metrics.num_bytes += num_bytes

    @property
    def tokens_per_second(self) -> float:
        """Over the last seconds."""
        return rate(self.recent)

    @property
    def state_seconds(self) -> float:
        """How long the stream has waited for that."""
        return time.perf_counter() - self._entered


@dataclass(eq=False)
class ConnectionRecord:
    """A WebSocket."""

    peer: str
    """Address and port of the client."""
    protocol: str
    """v2 or eir."""
    began: float = field(default_factory=time.monotonic)
    """When, on the monotonic clock."""
    streams: dict[int, StreamRecord] = field(default_factory=dict)
    """Its open streams."""
    num_tokens: int = 0
    """Tokens that its streams which have ended were sent."""
    fault: str = ""
    """What the client did wrong, where it was closed for that."""

    @property
    def tokens(self) -> int:
        """Tokens sent by all its streams."""
        return self.num_tokens + sum(stream.num_tokens for stream in self.streams.values())


class Metrics:
    """Everything that a server counts."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.num_tokens = self.num_frames = self.num_bytes = self.num_opens = 0
        self.num_connections = self.num_samples = 0
        self.num_source_requests = self.num_source_retries = self.num_source_bytes = 0
        self.num_shards_prepared = self.num_skipped_documents = 0
        self.shard_prepare_seconds = 0.0
        self.num_shards_preparing = 0
        self.wait_seconds = dict.fromkeys(STATES, 0.0)
        self.cache_hits: Counter[str] = Counter()
        self.cache_misses: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.last_errors: deque[ErrorRecord] = deque(maxlen=KEPT_ERRORS)
        self.connections: set[ConnectionRecord] = set()
        self.rates: deque[int] = deque(maxlen=HISTORY_SECONDS)
        self.recent: deque[int] = deque(maxlen=RATE_SECONDS + 1)
        self._last_tokens = 0

    def waited(self, state: str) -> float:
        """Seconds that all streams, also those still open, have waited for one thing."""
        now = sum(stream.state_seconds for stream in self.streams() if stream.state == state)
        return self.wait_seconds[state] + now

    def sample(self) -> None:
        """To be called once a second: what the rates are made of."""
        self.rates.append(self.num_tokens - self._last_tokens)
        self._last_tokens = self.num_tokens
        self.recent.append(self.num_tokens)
        for stream in self.streams():
            stream.recent.append(stream.num_tokens)

    def streams(self) -> Iterable[StreamRecord]:
        """All open streams."""
        for connection in self.connections:
            yield from connection.streams.values()

    def count_cache(self, kind: str, *, hit: bool) -> None:
        """Counts a look into a cache: `memory` or `disk` of tokens, `text` or `document` of text.

        The first of each is in memory, the second on disk.
        """
        (self.cache_hits if hit else self.cache_misses)[kind] += 1


def note_error(
    log: logging.Logger, metrics: Metrics, peer: str, error: RequestError
) -> dict[str, object]:
    """Counts and logs an error that a client is told; returns what there is to tell."""
    told = error.payload()
    code, field_name, message = (str(told[key]) for key in ("code", "field", "message"))
    metrics.errors[code] += 1
    metrics.last_errors.append(ErrorRecord(time.time(), peer, code, field_name, message))
    event(
        log, logging.INFO, "error", peer=peer, code=code, field=field_name or None, message=message
    )
    return told


def rate(totals: deque[int]) -> float:
    """Mean growth of a total a second, taken from its values at every second."""
    return (totals[-1] - totals[0]) / (len(totals) - 1) if len(totals) > 1 else 0.0


def resident_bytes() -> int:
    """Memory of this process that is in RAM; its peak where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
