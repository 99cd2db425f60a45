"""A connection that speaks `babygpt.stream.v2`: its requests, its feeds and its manners."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from streamer import __version__
from streamer.cursor import MAX_COUNT
from streamer.errors import RequestError, SourceError
from streamer.feed import Feed, OpenRequest
from streamer.fields import Fields, bad_field
from streamer.library import Library, as_request_error
from streamer.logs import event
from streamer.messages import dump, parse, parse_flat
from streamer.metrics import ENDED, ConnectionRecord, Metrics, StreamRecord, note_error
from streamer.pages import read_page
from streamer.plan import source_payload
from streamer.protocol import MAX_CREDIT, PREPARING_SECONDS, SUBPROTOCOL, Limits
from streamer.signs import while_waiting
from streamer.sockets import GOODBYE_SECONDS, Sending
from streamer.tokens import StoppingError

log = logging.getLogger(__name__)

Reply = dict[str, Any]

MAX_STRAY_MESSAGES = 64
"""To streams that are not open: one that ended has some under way, but not for ever."""


class Connection:
    """One client. A request that is refused leaves all else as it was."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        abort: Callable[[], None],
        library: Library,
        limits: Limits,
        metrics: Metrics,
        record: ConnectionRecord,
    ) -> None:
        """`abort` cuts the transport of a client that no longer reads."""
        self._socket = socket
        self._abort = abort
        self._library = library
        self._limits = limits
        self._metrics = metrics
        self._record = record
        self._feeds: dict[int, Feed] = {}
        self._feed_tasks: dict[int, asyncio.Task[None]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._num_errors = 0
        self._num_strays = 0
        self._operations: dict[str, Callable[[Fields], Awaitable[Reply]]] = {
            "info": self._info,
            "text": self._text,
            "tokenizer": self._tokenizer,
        }

    async def serve(self) -> None:
        """Answers until the client goes."""
        try:
            async for message in self._socket:
                await self._take(message)
                await asyncio.sleep(0)  # what a client sends at once does not hold up the others
        except (ConnectionError, StoppingError):
            log.debug("a client went, or the server stops, while it was being answered")
        finally:
            tasks = [*self._feed_tasks.values(), *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, message: WSMessage) -> None:
        if message.type is WSMsgType.TEXT:
            await self._receive(message.data)
        elif message.type is WSMsgType.PING:
            async with self._sending():
                await self._socket.pong(message.data)
        elif message.type is WSMsgType.BINARY:
            await self._close(WSCloseCode.UNSUPPORTED_DATA, "control messages are text")
        elif message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            self._record.fault = f"{message.data.code}: {message.data}"

    async def _close(self, code: WSCloseCode, reason: str) -> None:
        """Ends the connection for the client's fault."""
        self._record.fault = self._record.fault or f"{code.value}: {reason}"
        async with self._sending():
            await self._socket.close(code=code, message=reason.encode())

    async def say_goodbye(self) -> None:
        """Tells the client that the server stops, and closes."""
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._send_json({"op": "bye", "reason": "the server is stopping"})
                await self._socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"stopping")
        except (ConnectionError, TimeoutError):
            self._abort()

    async def _receive(self, text: str) -> None:
        context: Reply = {}
        try:
            fields = Fields(await self._parse(text))
            operation = fields.choice("op", (*self._operations, "open", "credit", "close"))
            if operation != "tokenizer" and len(text) > self._limits.control_bytes:
                raise RequestError("limit", "", f"a {operation} message of {len(text)} characters")
            if operation in self._operations:
                context = {"id": fields.integer("id", 0, MAX_COUNT)} if fields.has("id") else {}
                fields.discard("id")
                if len(self._requests) >= self._limits.requests:
                    message = f"more than {self._limits.requests} requests at once"
                    raise RequestError("busy", "", message, retry=True)
                self._start_request(self._operations[operation](fields), operation, context)
            else:
                stream = fields.integer("stream", 0, MAX_COUNT)
                context = {"stream": stream}
                self._stream_operation(operation, stream, fields)
        except RequestError as error:
            await self._refuse(error, context)

    async def _parse(self, text: str) -> object:
        if len(text) <= self._limits.control_bytes:
            return parse(text)
        return await self._library.quickly(lambda: parse_flat(text))

    def _start_request(self, work: Awaitable[Reply], operation: str, context: Reply) -> None:
        task = asyncio.create_task(self._answer(work, operation, context))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answer(self, work: Awaitable[Reply], operation: str, context: Reply) -> None:
        async def tell() -> None:
            done = self._library.progress
            await self._send_json({"op": "preparing", "progress": done, **context})

        async def reply() -> None:
            try:
                found = await while_waiting(work, tell, PREPARING_SECONDS)
                message = {"op": operation, **found, **context}
                text = await self._library.quickly(partial(dump, message))
            except SourceError as error:
                raise as_request_error(error) from error
            async with self._sending():
                await self._socket.send_str(text)

        await self._guard(reply(), context)

    async def _guard(self, work: Coroutine[Any, Any, None], context: Reply) -> None:
        """Runs `work`, and tells the client what went wrong with it."""
        try:
            try:
                await work
            except RequestError as error:
                await self._refuse(error, context)
            except (ConnectionError, StoppingError):
                log.debug("given up: %s", context)
            except Exception as error:
                log.exception("a bug in the streamer")
                bug = RequestError("internal", "", f"{type(error).__name__}; see the server's log")
                await self._refuse(bug, context)
        except ConnectionError:
            log.debug("a client went while it was being answered")

    def _stream_operation(self, operation: str, stream: int, fields: Fields) -> None:
        if operation == "open":
            if stream in self._feeds:
                raise RequestError("bad_request", "stream", f"stream {stream} is open already")
            if len(self._feeds) >= self._limits.streams:
                raise RequestError("limit", "stream", f"at most {self._limits.streams} streams")
            request = OpenRequest.parse(fields)
            share = request.share
            record = StreamRecord(
                self._metrics,
                self._record.peer,
                stream,
                share.split,
                share.batch,
                share.rank,
                share.world,
            )
            self._record.streams[stream] = record
            self._num_strays = 0
            feed = Feed(stream, request, self._library, self._send_json, self._send_bytes, record)
            self._feeds[stream] = feed
            task = asyncio.create_task(self._guard(feed.run(), {"stream": stream}))
            self._feed_tasks[stream] = task
            task.add_done_callback(lambda _: self._forget(stream, feed))
            return
        num_batches = fields.integer("batches", 1, MAX_CREDIT) if operation == "credit" else 0
        fields.done()
        if stream not in self._feeds:
            self._num_strays += 1  # it may have ended while this message was under way
            if self._num_strays > MAX_STRAY_MESSAGES:
                raise RequestError("bad_request", "stream", f"stream {stream} is not open")
        elif operation == "close":
            self._feed_tasks[stream].cancel()
            self._forget(stream, self._feeds[stream])
        else:
            self._feeds[stream].grant(num_batches)

    def _forget(self, stream: int, feed: Feed) -> None:
        if self._feeds.get(stream) is feed:
            del self._feeds[stream], self._feed_tasks[stream]
            self._note_end(self._record.streams.pop(stream))

    def _note_end(self, record: StreamRecord) -> None:
        record.enter(ENDED)
        self._record.num_tokens += record.num_tokens
        if record.plan_id:
            event(
                log,
                logging.INFO,
                "stream_ended",
                peer=record.peer,
                stream=record.stream,
                seconds=time.monotonic() - record.began,
                tokens=record.num_tokens,
            )

    async def _info(self, fields: Fields) -> Reply:
        fields.done()
        sources = [
            source_payload(listing)
            | {
                "num_files": len(listing.snapshot),
                "num_shards": len(listing.shards),
                "num_bytes": listing.num_bytes,
            }
            for listing in await self._library.listings()
        ]
        return {
            "version": __version__,
            "protocol": SUBPROTOCOL,
            "limits": self._limits.payload(),
            "sources": sources,
        }

    async def _text(self, fields: Fields) -> Reply:
        return await read_page(self._library, fields)

    async def _tokenizer(self, fields: Fields) -> Reply:
        if fields.has("json"):
            text = self._tokenizer_json(fields)
            fields.done()
            tokenizer = await self._library.add_tokenizer(text)
            return {"hash": tokenizer.hash, "known": True}
        if not fields.has("hash"):
            raise bad_field("hash", "or json must be given")
        digest = fields.hexadecimal("hash", 64)
        fields.done()
        return {"hash": digest, "known": self._library.find_tokenizer(digest) is not None}

    def _tokenizer_json(self, fields: Fields) -> str:
        text = fields.string("json", self._limits.message_bytes)
        if len(text) > self._limits.tokenizer_bytes:
            most = self._limits.tokenizer_bytes
            raise RequestError(
                "limit", "json", f"a tokenizer of {len(text)} characters, above {most}"
            )
        return text

    async def _refuse(self, error: RequestError, context: Reply) -> None:
        self._num_errors += 1
        told = note_error(log, self._metrics, self._record.peer, error)
        await self._send_json({**told, **context})
        if self._num_errors >= self._limits.errors and not self._socket.closed:
            await self._close(WSCloseCode.POLICY_VIOLATION, "too many errors")

    async def _send_json(self, message: Reply) -> None:
        async with self._sending():
            await self._socket.send_str(dump(message))

    async def _send_bytes(self, frame: bytes) -> None:
        async with self._sending():
            await self._socket.send_bytes(frame)

    def _sending(self) -> Sending:
        return Sending(self._abort, self._limits.send_seconds)
