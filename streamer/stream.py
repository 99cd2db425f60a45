"""A stream: the client's side of one sequence of batches, exactly once and in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from streamer.cursor import Cursor, Position
from streamer.plan import plan_id
from streamer.protocol import MAX_CREDIT, Frame, FrameError, decode_frames
from streamer.tokens import TokenArray
from streamer.transport import (
    FAULTS,
    Deadline,
    StreamError,
    TransientError,
    connected,
    receive_answer,
    with_retries,
)

STREAM_ID = 1
"""A connection of ours carries one stream."""
MAX_DAMAGED_FRAMES = 5
"""Damaged frames in a row after which the fault is not the line's."""
CLOSE_SECONDS = 5.0
CHECK_SECONDS = 5.0
"""How often a waiting consumer looks whether its event loop is still there."""

Upload = Callable[[aiohttp.ClientWebSocketResponse, str, Deadline], Awaitable[None]]
"""Makes the tokenizer with a hash known to the server of a connection."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's part of a batch."""

    tokens: TokenArray
    """(rows, T + 1) uint16 or uint32; inputs are [:, :-1], targets [:, 1:]."""
    lengths: NDArray[np.int32]
    """(rows,) number of tokens that are valid in each row, at most T + 1."""
    start: dict[str, Any]
    """Cursor of this batch."""
    next: dict[str, Any]
    """Cursor after this batch: what a checkpoint keeps."""


@dataclass(frozen=True)
class StreamRequest:
    """What is asked of the server."""

    fields: dict[str, Any]
    """The `open` message without op, stream and credit."""
    credit: int
    """Batches that may be under way or waiting to be taken."""

    def __post_init__(self) -> None:
        if not 1 <= self.credit <= MAX_CREDIT:
            raise StreamError("bad_request", "credit", f"credit must be from 1 to {MAX_CREDIT}")


class Stream:
    """An iterator of batches; made by StreamClient.open.

    `__next__` raises StreamError where it cannot go on, after all batches that came before.
    """

    def __init__(
        self,
        request: StreamRequest,
        urls: Sequence[str],
        deadline: Deadline,
        loop: asyncio.AbstractEventLoop,
        session: aiohttp.ClientSession,
    ) -> None:
        self.plan: dict[str, Any] = request.fields["plan"]
        """The full plan."""
        self.plan_id = ""
        """Its hash."""
        self.reconnects = 0
        """Connections that replaced a broken one."""
        self.is_closed = False
        self._request = request
        self._urls = urls
        self._deadline = deadline
        self._loop = loop
        self._session = session
        self._expected: dict[str, Any] | None = request.fields["cursor"]
        self._condition = threading.Condition()
        self._queue: deque[Batch] = deque()
        self._taken = 0
        self._ended = False
        self._failure: StreamError | None = None
        self._num_damaged = 0
        self._granted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, upload: Upload) -> None:
        """Waits until the server has opened the stream; raises StreamError."""

        def begin() -> None:
            self._task = self._loop.create_task(self._run(upload))

        self._loop.call_soon_threadsafe(begin)
        try:
            with self._condition:
                while not self.plan_id and self._failure is None:
                    self._wait()
                if self._failure is not None:
                    raise self._failure
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        with self._condition:
            while not self._queue:
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    raise StopIteration
                self._wait()
            batch = self._queue.popleft()
            self._taken += 1
            wanted = 2 * self._taken >= self._request.credit
        if wanted and not self.is_closed:
            self._loop.call_soon_threadsafe(self._grant)
        return batch

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be received."""
        return self._task is not None and self._task.done()

    def close(self) -> None:
        """Ends the stream and its connection; a waiting consumer gets StreamError."""
        if self.is_closed:
            return
        self.is_closed = True
        self._fail(StreamError("closed", "", "this stream is closed"))
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(CLOSE_SECONDS)

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _wait(self) -> None:
        """Waits for news; deadlines are the event loop's to keep, as long as it runs."""
        if not self._condition.wait(CHECK_SECONDS) and not self._loop.is_running():
            raise StreamError("closed", "", "the client of this stream is closed")

    def _fail(self, error: StreamError) -> None:
        with self._condition:
            if self._failure is None and not self._ended:
                self._failure = error
            self._condition.notify_all()

    def _grant(self) -> None:
        if self._deadline.is_paused:
            self._deadline.advance()
        self._granted.set()

    async def _run(self, upload: Upload) -> None:
        try:
            await with_retries(self._urls, self._deadline, lambda url: self._attempt(url, upload))
        except StreamError as error:
            self._fail(error)
        except Exception as error:  # the consumer must not wait for a thread that failed
            self._fail(StreamError("internal", "", f"{type(error).__name__}: {error}"))
            raise

    async def _attempt(self, url: str, upload: Upload) -> None:
        """One connection, until the end of the stream."""
        async with connected(self._session, url) as socket:
            with self._condition:
                credit = self._request.credit - len(self._queue)
                self._taken = 0
            message = self._request.fields | {"plan": self.plan, "cursor": self._expected}
            message |= {"op": "open", "stream": STREAM_ID, "credit": credit}
            await socket.send_json(message)
            try:
                await self._receive_opened(socket, credit)
            except StreamError as error:
                if error.code != "unknown_tokenizer":
                    raise
                # Over the same connection: the next may lead to another replica.
                await upload(socket, self.plan["tokenizer"]["hash"], self._deadline)
                await socket.send_json(message)
                await self._receive_opened(socket, credit)
            granting = asyncio.create_task(self._grant_credit(socket))
            try:
                await self._receive_batches(socket)
            finally:
                granting.cancel()

    async def _receive_opened(self, socket: aiohttp.ClientWebSocketResponse, credit: int) -> None:
        opened = await receive_answer(socket, self._deadline)
        if isinstance(opened, bytes) or opened["op"] != "opened":
            raise TransientError("the server answered something else")
        try:  # no checksum covers control messages, but the plan's own hash does
            plan: dict[str, Any] = opened["plan"]
            is_whole = plan_id(plan) == opened["plan_id"]
            beginning = Cursor(0, (Position(),) * len(plan["sources"])).payload()
            cursor = self._expected or beginning
            is_expected = opened["cursor"] == cursor
        except (KeyError, TypeError, AttributeError) as error:
            raise TransientError("a damaged message") from error
        if not is_whole or not is_expected:
            raise TransientError("the server opened another stream")
        self._deadline.advance(paused=not credit)
        with self._condition:
            self.reconnects += bool(self.plan_id)
            self._expected, self.plan, self.plan_id = cursor, plan, opened["plan_id"]
            self._condition.notify_all()

    async def _receive_batches(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await receive_answer(socket, self._deadline)
            if isinstance(message, bytes):
                self._receive_frames(message)
            elif message["op"] == "end":
                with self._condition:
                    self._ended = True
                    self._condition.notify_all()
                return
            else:
                raise TransientError(f"an unexpected message {message['op']!r}")

    def _receive_frames(self, message: bytes) -> None:
        try:
            for frame in decode_frames(message):
                self._accept(frame)
                self._num_damaged = 0
        except FrameError as error:
            self._num_damaged += 1
            if self._num_damaged >= MAX_DAMAGED_FRAMES:
                raise StreamError(
                    "corrupt_frame", "", f"{error}, {self._num_damaged} times"
                ) from error
            raise TransientError(str(error)) from error

    def _accept(self, frame: Frame) -> None:
        header, tokens, lengths = frame
        if header["stream"] != STREAM_ID or header["start"] != self._expected:
            raise TransientError("a batch that was not asked for")
        if tokens.shape[1] != self.plan["sequence_length"] + 1:
            raise TransientError("a batch of another shape")
        batch = Batch(tokens, lengths, header["start"], header["next"])
        self._expected = batch.next
        with self._condition:
            self._queue.append(batch)
            is_full = len(self._queue) + self._taken >= self._request.credit
            self._condition.notify_all()
        self._deadline.advance(paused=is_full)

    async def _grant_credit(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Tells the server how many batches were taken, several at a time."""
        while True:
            await self._granted.wait()
            self._granted.clear()
            with self._condition:
                num_batches, self._taken = self._taken, 0
            if num_batches:
                message = {"op": "credit", "stream": STREAM_ID, "batches": num_batches}
                try:
                    await socket.send_json(message)
                except FAULTS:
                    return  # the connection is down, which whoever reads from it finds out
