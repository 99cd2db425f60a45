"""Text from a server of EIR's protocol, over as many connections as it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from streamer.eir.conversation import Conversation, UnexpectedReplyError, dial
from streamer.eir.messages import PROTOCOL_VERSION
from streamer.eir.samples import damaged, sample_texts, text_output
from streamer.errors import RequestError
from streamer.transport import Deadline, StreamError, with_retries

MAX_UNEXPECTED = 20
"""Errors and other wrong replies in a row after which the server does not want to."""


@dataclass(frozen=True)
class SourceOptions:
    """How a server is asked."""

    url: str
    """ws://host:port/path, with a query if the server wants one."""
    batch_size: int
    """Samples a request."""
    output: str | None
    """Name of the server's output that is text; None for its first."""
    may_reset: bool
    """Whether to rewind a server that has ended and does not begin again by itself."""
    deadline_seconds: float
    """How long nothing may come."""
    notice: Callable[[str], None]
    """Is told what may have happened to the text."""

    @property
    def name(self) -> str:
        """The URL as it may be shown: a query may hold a secret."""
        return self.url.partition("?")[0]


class SampleSource:
    """The samples that a server hands out, in the order in which they come.

    The server keeps one position for all its clients, and forgets what it has sent: where a
    connection breaks, samples may be lost or come again.
    """

    def __init__(self, options: SourceOptions, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.reconnects = 0
        """Connections that replaced a broken one."""
        self.num_resets = 0
        """Times that another client rewound the server."""
        self._session = session
        self._conversation: Conversation | None = None
        self._output = ""
        self._is_broken = False
        self._num_unexpected = 0
        self._num_samples = 0
        self._reset_wanted = self._reset_sent = False

    async def read(self) -> list[str]:
        """The next samples' texts, at least one; none at the end of the server's pass.

        The next read begins the next pass. Raises StreamError.
        """
        deadline = Deadline(self.options.deadline_seconds)
        while True:
            texts = await with_retries([self.options.name], deadline, self._attempt)
            if texts:
                self._num_samples += len(texts)
                self._reset_sent = False
                return texts
            await self.disconnect()  # whatever else such a server sends belongs to no request
            if self._num_samples:
                self._num_samples = 0
                return []
            self._want_reset()

    def _want_reset(self) -> None:
        """The last resort, after a new connection gave nothing either."""
        name = self.options.name
        if self._reset_sent:
            raise StreamError("empty_split", "", f"{name} gives no text at all, also when rewound")
        if not self.options.may_reset:
            message = f"{name} has come to its end: start that server again, or have it rewound"
            raise StreamError("empty_split", "", f"{message} for all its clients, data.reset=true")
        self._reset_wanted = True

    async def disconnect(self) -> None:
        """Ends the connection, if there is one."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            await conversation.close()

    async def _attempt(self, name: str) -> list[str]:
        """One question and its answer, after connecting where that is needed."""
        try:
            if self._conversation is None:
                await self._connect(name)
            assert self._conversation is not None
            request = {"type": "getData", "payload": {"batch_size": self.options.batch_size}}
            reply = await self._conversation.ask(request, "data")
            texts = sample_texts(reply.get("payload"), self._output)
        except RequestError as error:
            raise damaged(name, error) from error
        except UnexpectedReplyError as error:
            self._num_unexpected += 1
            await self._break()
            if self._num_unexpected >= MAX_UNEXPECTED:
                message = (
                    f"{name} did not answer {self._num_unexpected} times in a row, but {error}"
                )
                raise StreamError("refused", "", message) from error
            raise
        except BaseException:  # also when cancelled, since a reply may be under way
            await self._break()
            raise
        self._num_unexpected = 0
        return texts

    async def _break(self) -> None:
        self._is_broken |= self._conversation is not None
        await self.disconnect()

    async def _connect(self, name: str) -> None:
        conversation = await dial(self._session, self.options.url, name, self._note_reset)
        self._conversation = conversation
        hello = {"type": "handshake", "version": PROTOCOL_VERSION, "worker_id": 0}
        try:
            reply = await conversation.ask(hello, "handshake")
        except UnexpectedReplyError as error:
            raise _no_handshake(name, str(error)) from error
        if reply.get("version") != PROTOCOL_VERSION:
            raise _no_handshake(name, f"version {str(reply.get('version'))[:50]}")
        info = await conversation.ask({"type": "getInfo"}, "info")
        self._output = text_output(info.get("payload"), self.options.output)
        if self._reset_wanted:
            self._reset_sent = True  # before all are told, us too
            await conversation.ask({"type": "reset"}, "resetConfirmation")
            self._reset_wanted = False
        if self._is_broken:
            self._is_broken = False
            self.reconnects += 1
            if self.reconnects == 1:
                self.options.notice(f"connected to {name} again: text may be lost or come again")

    def _note_reset(self) -> None:
        """A server tells all its clients of a reset, the one that asked for it among them."""
        if self._reset_sent:
            return
        self.num_resets += 1
        if self.num_resets == 1:
            self.options.notice(f"another client has rewound {self.options.name}: text comes again")


def _no_handshake(name: str, said: str) -> StreamError:
    message = f"{name} refused the handshake of EIR's protocol {PROTOCOL_VERSION}: {said}"
    return StreamError("refused", "version", message)
