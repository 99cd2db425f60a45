"""A connection that speaks EIR's protocol 1.0: exactly what its client needs, and no frame more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from streamer.eir.corpus import data_message
from streamer.eir.messages import (
    MAX_BATCH_SIZE,
    MAX_ERRORS,
    PROTOCOL_VERSION,
    TERMINATE,
    info_message,
)
from streamer.eir.session import Session, Sessions, Wish
from streamer.errors import RequestError, SourceError
from streamer.fields import Fields, bad_field
from streamer.library import Library, as_request_error
from streamer.messages import dump, parse
from streamer.metrics import ConnectionRecord, note_error
from streamer.protocol import MAX_CONTROL_BYTES, SUBPROTOCOL
from streamer.sockets import GOODBYE_SECONDS, Sending, keep_alive
from streamer.tokens import StoppingError

log = logging.getLogger(__name__)

WAITING_MESSAGES = 4
"""Messages read before they are answered; further ones wait in the socket's buffers."""
CLIENT_FAULTS = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.POLICY_VIOLATION)


class EirConnection:
    """One client, which makes its wishes by the query of its URL."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        abort: Callable[[], None],
        library: Library,
        sessions: Sessions,
        query: Mapping[str, str],
        record: ConnectionRecord | None = None,
    ) -> None:
        """`abort` cuts the transport of a client that no longer reads."""
        self._socket = socket
        self._abort = abort
        self._library = library
        self._sessions = sessions
        self._timing = sessions.timing
        self._query = query
        self._record = record or ConnectionRecord("", "eir")
        self._messages: asyncio.Queue[WSMessage] = asyncio.Queue(WAITING_MESSAGES)
        self._session: Session | None = None
        self._is_closing = False
        self._num_errors = 0
        self._num_heartbeats = 0
        self._was_asked = False
        self._was_reset = False
        self._answers: dict[str, Callable[[Session, Fields], Awaitable[None]]] = {
            "handshake": self._greet,
            "getInfo": self._get_info,
            "getData": self._get_data,
            "setValidationIds": self._set_validation_ids,
            "reset": self._reset,
            "status": self._get_status,
        }

    async def serve(self) -> None:
        """Answers until the client goes."""
        keep_alive(self._socket)
        reading = asyncio.create_task(self._read())
        answering = asyncio.create_task(self._answer_all())
        try:
            await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
            if self._is_closing:
                await asyncio.wait({answering})
        finally:
            reading.cancel()
            answering.cancel()
            await asyncio.gather(reading, answering, return_exceptions=True)

    async def say_goodbye(self) -> None:
        """Closes, as the server stops; the protocol has no word for it."""
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"stopping")
        except (ConnectionError, TimeoutError):
            self._abort()

    async def _read(self) -> None:
        """Notices at once when the client goes, whatever it is being answered."""
        async for message in self._socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._messages.put(message)

    async def _answer_all(self) -> None:
        try:
            session = await self._begin()
            while session is not None and not self._is_closing:
                message = await self._next_message()
                try:
                    name, fields = await self._parse(message)
                    await self._answer(session, name, fields)
                except RequestError as error:
                    await self._refuse(error)
        except SourceError as error:
            await self._end(WSCloseCode.INTERNAL_ERROR, as_request_error(error))
        except (ConnectionError, StoppingError):
            log.debug("a client went, or the server stops, while it was being answered")
        except Exception as error:
            log.exception("a bug in the streamer")
            bug = RequestError("internal", "", f"{type(error).__name__}; see the server's log")
            await self._end(WSCloseCode.INTERNAL_ERROR, bug)
        finally:
            if self._session is not None:
                self._sessions.detach(self._session, self)

    async def _begin(self) -> Session | None:
        """Shakes hands; None where that fails."""
        seconds = self._timing.handshake_seconds
        code = WSCloseCode.PROTOCOL_ERROR
        try:
            async with asyncio.timeout(seconds):
                message = await self._messages.get()
            name, fields = await self._parse(message)
            if name != "handshake":
                raise bad_field("type", "must be handshake in the first message")
            _check_version(fields)
            code = WSCloseCode.POLICY_VIOLATION
            session = self._sessions.attach(Wish.parse(self._query), self._library, self)
            self._session = session
        except TimeoutError:
            late = bad_field("handshake", f"did not come within {seconds:g} s")
            await self._end(WSCloseCode.POLICY_VIOLATION, late)
        except RequestError as error:
            await self._end(WSCloseCode.TRY_AGAIN_LATER if error.retry else code, error)
        else:
            try:
                async with asyncio.timeout(self._timing.warming_seconds):
                    await session.first()
            except (TimeoutError, SourceError):
                log.debug("no sample yet; whoever asks for data will wait, or be told")
            await self._send_handshake()
            return session
        return None

    async def _next_message(self) -> WSMessage:
        """The next message; heartbeats are answered when none follows.

        EIR's client sends one before each request for data and reads a single reply, so that with
        every answer to one it would fall further behind what it is sent.
        """
        while True:
            seconds = self._timing.heartbeat_seconds
            if not self._was_asked:
                seconds = self._timing.first_heartbeat_seconds
            try:
                async with asyncio.timeout(seconds if self._num_heartbeats else None):
                    return await self._messages.get()
            except TimeoutError:
                await self._answer_heartbeats()

    async def _answer_heartbeats(self) -> None:
        while self._num_heartbeats:
            self._num_heartbeats -= 1
            await self._send({"type": "heartbeat"})

    async def _parse(self, message: WSMessage) -> tuple[str, Fields]:
        if message.type is not WSMsgType.TEXT:
            raise RequestError("bad_request", "", "a binary message; send JSON as text")

        read = partial(parse, message.data)
        small = len(message.data) <= MAX_CONTROL_BYTES
        fields = Fields(read() if small else await self._library.quickly(read))
        if fields.has("op") and not fields.has("type"):
            text = f"this is EIR's protocol {PROTOCOL_VERSION}; offer the subprotocol {SUBPROTOCOL}"
            raise RequestError("bad_request", "op", text)
        return fields.choice("type", (*self._answers, "heartbeat")), fields

    async def _answer(self, session: Session, name: str, fields: Fields) -> None:
        if name == "heartbeat":
            self._num_heartbeats += 1
            if not self._was_reset:
                await self._answer_heartbeats()
            return
        if name == "getData" and self._was_reset:
            self._num_heartbeats = 0
        await self._answer_heartbeats()
        await self._answers[name](session, fields)

    async def _greet(self, session: Session, fields: Fields) -> None:
        _check_version(fields)
        await self._send_handshake()

    async def _send_handshake(self) -> None:
        await self._send({"type": "handshake", "version": PROTOCOL_VERSION})

    async def _get_info(self, session: Session, fields: Fields) -> None:
        await self._send(info_message())

    async def _get_data(self, session: Session, fields: Fields) -> None:
        count = fields.mapping("payload").integer("batch_size", 1, MAX_BATCH_SIZE)
        is_trial = count == 1 and not self._was_asked and not self._was_reset
        self._was_asked = True
        if is_trial:
            first = await session.first()
            if first is None:
                text = "every sample is held out for validation; set fewer validation ids"
                raise RequestError("bad_request", "", text)
            samples = [first]
        else:
            samples = await session.take(self, count)
        self._library.metrics.num_samples += len(samples)
        if samples:
            await self._send_text(await self._library.quickly(lambda: data_message(samples)))
        else:
            await self._send({"type": "data", "payload": [TERMINATE]})
            await self._close(WSCloseCode.OK, "the end of the epoch")

    async def _set_validation_ids(self, session: Session, fields: Fields) -> None:
        ids = fields.mapping("payload").sequence("validation_ids")
        self._sessions.check_room(session, len(ids))
        await session.hold_out(ids)
        text = f"{session.num_validation_ids} samples are held out"
        await self._send({"type": "validationIdsConfirmation", "payload": {"message": text}})

    async def _reset(self, session: Session, fields: Fields) -> None:
        """Answered twice, as the client reads two messages; the others are told nothing."""
        await session.join(self)
        self._was_reset = True
        self._was_asked = False
        payload = {"message": "this connection goes on with its session's epoch"}
        await self._send({"type": "resetConfirmation", "payload": payload})
        await self._send({"type": "reset", "payload": payload})

    async def _get_status(self, session: Session, fields: Fields) -> None:
        await self._send({"type": "status", "payload": session.status()})

    async def _refuse(self, error: RequestError) -> None:
        """Tells of an error, but not at once, since the client tries again without a pause."""
        self._num_errors += 1
        await asyncio.sleep(self._timing.error_seconds)
        await self._send_error(error)
        if self._num_errors >= MAX_ERRORS:
            await self._close(WSCloseCode.POLICY_VIOLATION, "too many errors")

    async def _end(self, code: WSCloseCode, error: RequestError) -> None:
        """Ends the connection with an error, as far as the client will hear it."""
        try:
            await self._send_error(error)
            await self._close(code, error.code)
        except ConnectionError:
            log.debug("a client went before it was told: %s", error)

    async def _send_error(self, error: RequestError) -> None:
        told = note_error(log, self._library.metrics, self._record.peer, error)
        await self._send({"type": "error", "payload": {"message": told["message"]}})

    async def _close(self, code: WSCloseCode, reason: str) -> None:
        self._is_closing = True
        if code in CLIENT_FAULTS:
            self._record.fault = f"{code.value}: {reason}"
        async with self._sending():
            await self._socket.close(code=code, message=reason.encode())

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(dump(message))

    async def _send_text(self, text: str) -> None:
        async with self._sending():
            await self._socket.send_str(text)

    def _sending(self) -> Sending:
        return Sending(self._abort, self._timing.send_seconds)


def _check_version(fields: Fields) -> None:
    version = fields.take("version")
    if version != PROTOCOL_VERSION:
        raise bad_field("version", f"must be {PROTOCOL_VERSION!r}")
