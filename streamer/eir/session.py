"""What the connections of one training job share: a place in the corpus, and what is held out.

EIR's client connects once for each data loader worker of each rank, and again in every epoch; it
says neither which worker it is nor how many there are. So all connections of a session that are in
the same epoch take their samples from one reader. A reset joins the epoch that is under way, or
begins the next one at the start of the corpus: after somebody has been told of the end, or when
nobody of the session streams. What a connection was sent is gone for its epoch, even if the worker
dies before it has used it. All workers gone, the epoch begins again.

A worker may connect when others have taken all of a small corpus already. It must not have the
epoch all over again, so nobody is told of an end until some seconds after the last one joined.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamer.eir.corpus import Corpus, Reader, Sample
from streamer.eir.messages import (
    DEFAULT_WORDS,
    MAX_ALL_VALIDATION_IDS,
    MAX_EPOCHS,
    MAX_NAME_CHARACTERS,
    MAX_SESSIONS,
    MAX_VALIDATION_IDS,
    MAX_WORDS,
)
from streamer.errors import RequestError
from streamer.fields import bad_field, kind
from streamer.library import Library


@dataclass(frozen=True)
class Timing:
    """How long we wait for what. The client itself waits 30 s for data, and 5 s elsewhere."""

    handshake_seconds: float = 10.0
    """For the first message."""
    warming_seconds: float = 20.0
    """For a first sample before the handshake is answered: what follows it has to be quick."""
    gathering_seconds: float = 15.0
    """For further workers of an epoch, since the last one came."""
    holding_seconds: float = 25.0
    """The same at most, however many come."""
    first_heartbeat_seconds: float = 5.0
    """For the data request that makes an answer to a heartbeat needless, after a reset."""
    heartbeat_seconds: float = 1.0
    """The same later on."""
    error_seconds: float = 1.0
    """Before an error is told: the client tries again at once, and for ever."""
    send_seconds: float = 30.0
    """Time that one message may take; by then the client has stopped to read."""
    idle_seconds: float = 86_400.0
    """After which a session without connections is forgotten, and with it what is held out. So it
    is longer than any evaluation between two epochs."""


@dataclass(frozen=True)
class Wish:
    """What the query of a URL asks for; whoever asks for the same shares a session."""

    name: str = "default"
    """Keeps jobs apart."""
    num_words: int = DEFAULT_WORDS
    """The most words of a sample."""
    num_epochs: int = 1
    """Times that the corpus is gone through before the end is told. EIR's client asks for a single
    epoch of a stream, whatever its configuration says."""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Wish:
        """Of `session`, `words` and `epochs`; raises RequestError."""
        for key in query.keys() - {"session", "words", "epochs", "token"}:
            raise bad_field(key, "is not known here; use session, words and epochs")
        name = query.get("session", cls.name)
        if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            text = f"must be 1 to {MAX_NAME_CHARACTERS} printable characters"
            raise bad_field("session", text)
        num_words = _whole_number(query, "words", cls.num_words, MAX_WORDS)
        return cls(name, num_words, _whole_number(query, "epochs", cls.num_epochs, MAX_EPOCHS))


def _whole_number(query: Mapping[str, str], name: str, default: int, highest: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest):
        raise bad_field(name, f"must be a whole number from 1 to {highest}")
    return int(text)


class Epoch:
    """From the start of the corpus until the end is told, for the connections that take part."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.num_samples = 0
        """Handed out so far."""
        self.is_over = False
        """Whether somebody has been told of its end."""
        self.last_joined_seconds = 0.0
        self._joined_seconds: dict[object, float] = {}
        self._streaming: set[object] = set()

    def add(self, member: object) -> None:
        """A connection joins."""
        self.last_joined_seconds = self._joined_seconds[member] = time.monotonic()

    def discard(self, member: object) -> None:
        """A connection leaves; with the last one goes what has been read ahead."""
        self._joined_seconds.pop(member, None)
        self._streaming.discard(member)
        if not self._joined_seconds:
            self.reader.close()

    def note(self, member: object, num_samples: int) -> None:
        """A connection has taken samples."""
        self._streaming.add(member)
        self.num_samples += num_samples

    def is_open(self, gathering_seconds: float) -> bool:
        """Whether it goes on: somebody streams, or has come to do so a moment ago."""
        recently = time.monotonic() - gathering_seconds
        return not self.is_over and (
            bool(self._streaming) or any(at > recently for at in self._joined_seconds.values())
        )


class Session:
    """One job. What it takes from the corpus stays the same until an epoch begins."""

    def __init__(self, library: Library, wish: Wish, timing: Timing) -> None:
        self._library = library
        self._wish = wish
        self._timing = timing
        self._corpus: Corpus | None = None
        self._first: asyncio.Task[Sample | None] | None = None
        self._epoch: Epoch | None = None
        self._epochs: dict[object, Epoch] = {}
        self._lock = asyncio.Lock()
        self._held_out: frozenset[bytes] = frozenset()
        self._validation_ids: frozenset[str] = frozenset()
        self.connections: set[object] = set()
        self.last_used_seconds = time.monotonic()

    @property
    def num_validation_ids(self) -> int:
        """Samples held out by id."""
        return len(self._validation_ids)

    def status(self) -> dict[str, int]:
        """What the `status` message tells."""
        return {
            "active_connections": len(self.connections),
            "current_position": self._epoch.num_samples if self._epoch is not None else 0,
            "validation_ids_count": self.num_validation_ids,
        }

    async def first(self) -> Sample | None:
        """The first sample that is not held out; takes nothing from any epoch."""
        if self._first is None:
            self._first = asyncio.create_task(self._read_first())
            self._first.add_done_callback(self._note_first)
        return await asyncio.shield(self._first)  # whoever asks again need not begin again

    async def _read_first(self) -> Sample | None:
        async with self._lock:
            corpus = self._corpus or await self._list()
        reader = Reader(corpus, 1)
        try:
            return next(iter(await reader.take(1, self._held_out)), None)
        finally:
            reader.close()

    def _note_first(self, task: asyncio.Task[Sample | None]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._first is task:
            self._first = None

    async def join(self, member: object) -> None:
        """Takes a connection into the epoch under way, or into a new one."""
        async with self._lock:
            self.leave(member)
            if self._epoch is None or not self._epoch.is_open(self._timing.gathering_seconds):
                self._epoch = Epoch(Reader(await self._list(), self._wish.num_epochs))
            self._epoch.add(member)
            self._epochs[member] = self._epoch

    def leave(self, member: object) -> None:
        """Takes a connection out of its epoch."""
        epoch = self._epochs.pop(member, None)
        if epoch is not None:
            epoch.discard(member)

    async def take(self, member: object, count: int) -> list[Sample]:
        """Samples for a connection, which joins if it has not; none at the end of its epoch."""
        if member not in self._epochs:
            await self.join(member)
        epoch = self._epochs[member]
        samples = await epoch.reader.take(count, self._held_out)
        if not samples:
            await self._gather(epoch)
            epoch.is_over = True
            self.leave(member)
            return []
        epoch.note(member, len(samples))
        return samples

    async def _gather(self, epoch: Epoch) -> None:
        latest = time.monotonic() + self._timing.holding_seconds
        while not epoch.is_over:
            due = min(epoch.last_joined_seconds + self._timing.gathering_seconds, latest)
            if (seconds := due - time.monotonic()) <= 0:
                return
            await asyncio.sleep(seconds)

    async def hold_out(self, ids: Sequence[object]) -> None:
        """Keeps samples, and all others of the same text, from being handed out from now on.

        What is kept in mind is their text, so that it remains held out when the corpus changes.
        It is compared whole: the same words inside a longer sample are not found.
        Raises RequestError for what is no sample.
        """
        if len(ids) > MAX_VALIDATION_IDS:
            raise bad_field("payload.validation_ids", f"may hold {MAX_VALIDATION_IDS} at most")
        names = []
        for name in ids:
            if not isinstance(name, str):
                raise bad_field("payload.validation_ids", f"must hold strings, not {kind(name)}")
            names.append(name)
        async with self._lock:
            wanted = frozenset(names)
            if wanted != self._validation_ids:
                corpus = self._corpus or await self._list()
                self._held_out = await corpus.digests(wanted)
                self._validation_ids = wanted
                self._first = None

    async def _list(self) -> Corpus:
        """The corpus as it is now."""
        found = Corpus(self._library, await self._library.listings(), self._wish.num_words)
        if self._corpus is None:
            self._corpus = found
        elif self._corpus.prefixes != found.prefixes:
            self._corpus, self._first = found, None
        return self._corpus


class Sessions:
    """All sessions. Those that nobody uses make room."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        self._sessions: dict[Wish, Session] = {}

    def attach(self, wish: Wish, library: Library, connection: object) -> Session:
        """The session that a connection belongs to from now on; raises RequestError."""
        session = self._sessions.get(wish)
        if session is None:
            self._forget_idle()
            if len(self._sessions) >= MAX_SESSIONS and not self._forget_oldest():
                text = f"all {MAX_SESSIONS} sessions are in use"
                raise RequestError("busy", "", text, retry=True)
            session = self._sessions[wish] = Session(library, wish, self.timing)
        session.connections.add(connection)
        return session

    def detach(self, session: Session, connection: object) -> None:
        """A connection is gone."""
        session.leave(connection)
        session.connections.discard(connection)
        session.last_used_seconds = time.monotonic()

    def check_room(self, session: Session, num_ids: int) -> None:
        """Makes room for validation ids; raises RequestError where there is none."""
        while self._num_other_ids(session) + num_ids > MAX_ALL_VALIDATION_IDS:
            if not self._forget_oldest():
                message = f"all sessions together hold {MAX_ALL_VALIDATION_IDS} ids at most"
                raise RequestError("limit", "payload.validation_ids", message)

    def _num_other_ids(self, session: Session) -> int:
        others = (found for found in self._sessions.values() if found is not session)
        return sum(found.num_validation_ids for found in others)

    def _forget_idle(self) -> None:
        latest = time.monotonic() - self.timing.idle_seconds
        for key, session in list(self._sessions.items()):
            if not session.connections and session.last_used_seconds < latest:
                del self._sessions[key]

    def _forget_oldest(self) -> bool:
        idle = [key for key, session in self._sessions.items() if not session.connections]
        if idle:
            del self._sessions[min(idle, key=lambda key: self._sessions[key].last_used_seconds)]
        return bool(idle)
