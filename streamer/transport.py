"""How a client reaches a server: connections, retries, and which faults are worth another try."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from aiohttp import hdrs

from streamer.access import TOKEN_VARIABLE, AccessError, client_token, without_secrets
from streamer.errors import one_line
from streamer.protocol import HEARTBEAT_SECONDS, MAX_FRAME_BYTES, PREPARING_SECONDS, SUBPROTOCOL

T = TypeVar("T")

CONNECT_SECONDS = 10.0
SOCKET_CONNECT_SECONDS = 5.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0
DELAY_SHARE = 0.2
SILENCE_SHARE = 0.5
"""Part of the deadline without a message that is owed, after which the connection is at fault."""
SHORTEST_SILENCE_SECONDS = 3 * PREPARING_SECONDS
PERMANENT_TLS_REASONS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNSUPPORTED_PROTOCOL",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "NO_SHARED_CIPHER",
    "RECORD_LAYER_FAILURE",
)
"""What OpenSSL says of a server that speaks another language, or none but plain HTTP."""


class StreamError(Exception):
    """A stream or request that failed for good; str() is one line.

    code: a word of protocol.ERROR_CODES, or `deadline`, `closed`, `refused`, `unauthorized`,
    `corrupt_frame`.
    field: dotted name of the offending field, "" where no single one is to blame.
    """

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(one_line(message))
        self.code = code
        self.field = field


class TransientError(Exception):
    """Something that another connection may cure."""


class GivenUpError(TransientError):
    """Something that the server tried, and gave up after a time of its own."""


FAULTS = (TransientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)


def token_headers(token: str | None) -> dict[str, str]:
    """What a client sends of its token; StreamError for one that cannot be sent.

    Where it is None, that of the environment variable BABYGPT_STREAM_TOKEN is taken.
    """
    try:
        known = client_token(token)
    except AccessError as error:
        raise StreamError("unauthorized", "token", str(error)) from error
    return {hdrs.AUTHORIZATION: f"Bearer {known}"} if known else {}


async def open_session(
    headers: dict[str, str], tls: ssl.SSLContext | bool = True
) -> aiohttp.ClientSession:
    """All connections of a client: no bound on their number or duration, one on their beginning."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=SOCKET_CONNECT_SECONDS),
    )


@asynccontextmanager
async def connected(
    session: aiohttp.ClientSession, url: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to one endpoint; raises StreamError where trying again is pointless."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            socket = await session.ws_connect(
                url,
                protocols=(SUBPROTOCOL,),
                heartbeat=HEARTBEAT_SECONDS / 2,
                max_msg_size=MAX_FRAME_BYTES + 1024,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
    except FAULTS as error:
        raise _permanent(url, error) or error from error
    try:
        if socket.protocol != SUBPROTOCOL:
            shown = without_secrets(url)
            raise StreamError("refused", "url", f"{shown} does not speak {SUBPROTOCOL}")
        yield socket
    finally:
        await socket.close()


def _permanent(url: str, fault: BaseException) -> Exception | None:
    """What to say of a connection that was not made, where another try would be in vain."""
    shown = without_secrets(url)
    if isinstance(fault, aiohttp.InvalidURL):
        return StreamError("refused", "url", f"{shown} is not a ws:// or wss:// address")
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = _certificate_problem(fault.certificate_error)
        return StreamError("refused", "url", f"{shown} is not to be trusted: {reason}")
    if isinstance(fault, aiohttp.ClientConnectorSSLError):
        reason = getattr(fault.os_error, "reason", None) or str(fault.os_error)
        if reason in PERMANENT_TLS_REASONS:
            advice = f"{shown} does not speak TLS as we do ({reason}); is it wss:// and not ws://?"
            return StreamError("refused", "url", advice)
    if isinstance(fault, aiohttp.WSServerHandshakeError):
        if fault.status == 401:
            message = (
                f"{shown} lets in only who has a token, and not with ours; set data.token_file"
            )
            message += f" or the environment variable {TOKEN_VARIABLE}"
            return StreamError("unauthorized", "token", message)
        message = f"{shown} refused the connection with HTTP {fault.status}"
        if 400 <= fault.status < 500 and fault.status not in (408, 429):
            return StreamError("refused", "url", message)
        return TransientError(message)  # the fault's own words would show the query
    return None


def _certificate_problem(error: Exception) -> str:
    """What is wrong with a certificate, and what can be done about it."""
    reason = getattr(error, "verify_message", "") or str(error)
    if "self-signed" in reason or "unable to get local issuer" in reason:
        reason += "; name the authority's certificate by data.ca_file"
    return reason


async def receive(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any] | bytes:
    """The next message: a JSON object, or a data frame.

    Raises TransientError at the end of a connection, GivenUpError for an error that is worth
    another try, StreamError for one that is not.
    """
    message = await socket.receive()
    if message.type is aiohttp.WSMsgType.BINARY:
        return bytes(message.data)
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise TransientError(f"connection closed ({socket.close_code})")
    try:
        value = json.loads(message.data)
        operation = value["op"]
    except (ValueError, KeyError, TypeError) as error:
        raise TransientError("the server sent a damaged message") from error
    if operation == "error":
        code, text = str(value.get("code")), str(value.get("message"))
        if value.get("retry"):
            raise GivenUpError(text)
        raise StreamError(code, str(value.get("field")), text)
    if operation == "bye":
        raise TransientError("the server is stopping")
    return dict(value)


class Deadline:
    """Time since something last went forward; it stands still while nothing is owed to us."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.num_advances = 0
        self._since = self._heard = time.monotonic()
        self._paused = False
        self._was_given_up = False
        self._last_fault = ""
        self._num_faults = 0

    def advance(self, *, paused: bool = False) -> None:
        """Begins anew; `paused` until the next advance."""
        self.num_advances += 1
        self._num_faults = 0
        self._since = self._heard = time.monotonic()
        self._paused = paused
        self._was_given_up = False

    def extend(self) -> None:
        """Begins anew for a server that is at work, unless it gave up: it might do so for ever."""
        if not self._was_given_up:
            self.advance()

    def hear(self) -> None:
        """Notes a message, which need not be progress."""
        self._heard = time.monotonic()

    @property
    def left_seconds(self) -> float:
        """Time until it is over."""
        if self._paused:
            return self.seconds
        return self._since + self.seconds - time.monotonic()

    def note(self, url: str, fault: BaseException) -> None:
        """Remembers why, for the error that may come of it."""
        self._last_fault = one_line(f"{without_secrets(url)}: {fault or type(fault).__name__}")
        self._num_faults += 1
        self._was_given_up |= isinstance(fault, GivenUpError)

    def error(self, urls: Sequence[str]) -> StreamError:
        """What the user is told."""
        shown = ", ".join(without_secrets(url) for url in urls)
        text = f"no progress for {self.seconds:g} s from {shown}"
        if self._num_faults:
            text += f" ({self._num_faults} attempts failed, the last: {self._last_fault})"
        return StreamError("deadline", "", text)

    @property
    def is_paused(self) -> bool:
        """Whether nothing is owed."""
        return self._paused

    async def watch(self, timeout: asyncio.Timeout) -> None:
        """Ends an attempt when the deadline is over, or when its connection has fallen silent.

        Heartbeats do not tell of that: where a bit of a message's length was flipped, the answers
        to our pings are taken for the rest of the message.
        """
        began = time.monotonic()
        patience = max(self.seconds * SILENCE_SHARE, SHORTEST_SILENCE_SECONDS)
        while True:
            silence = 0.0 if self._paused else time.monotonic() - max(began, self._heard)
            left = min(self.left_seconds, patience - silence)
            if left <= 0:
                break
            await asyncio.sleep(min(left + 0.01, self.seconds / 4))
        timeout.reschedule(asyncio.get_running_loop().time())


async def receive_answer(
    socket: aiohttp.ClientWebSocketResponse, deadline: Deadline
) -> dict[str, Any] | bytes:
    """The next message that is not a mere sign of life; raises what `receive` does."""
    progress = None
    while True:
        message = await receive(socket)
        deadline.hear()
        if isinstance(message, bytes) or message["op"] != "preparing":
            return message
        if message.get("progress") != progress:
            deadline.extend()
        progress = message.get("progress")


async def with_retries(
    urls: Sequence[str], deadline: Deadline, attempt: Callable[[str], Awaitable[T]]
) -> T:
    """The result of `attempt(url)`, tried on one endpoint after the other until the deadline.

    Waits a random time before each new try, from up to 0.1 s at first to up to 10 s in the end:
    at most a fifth of what has been lost since the last progress, so that a server which comes
    back is noticed soon. Raises StreamError.
    """
    number, since = 0, time.monotonic()
    while True:
        url, num_advances = urls[number % len(urls)], deadline.num_advances
        try:
            async with asyncio.timeout(None) as timeout:
                watch = asyncio.create_task(deadline.watch(timeout))
                try:
                    return await attempt(url)
                finally:
                    watch.cancel()
        except FAULTS as fault:
            if deadline.left_seconds <= 0:
                raise deadline.error(urls) from fault
            deadline.note(url, fault)
        if deadline.num_advances != num_advances:
            since = time.monotonic()
        longest = max(FIRST_DELAY_SECONDS, (time.monotonic() - since) * DELAY_SHARE)
        delay = random.uniform(0, min(longest, LONGEST_DELAY_SECONDS))
        await asyncio.sleep(min(delay, deadline.left_seconds))
        number += 1
