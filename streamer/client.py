"""The client: batches from one or more equal servers, each exactly once whatever happens.

One thread owns the event loop and all connections. A stream buffers as many batches as it grants
credit for, and grants more as its consumer takes them.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from streamer.access import AccessError, client_context
from streamer.background import Background
from streamer.closing import Closing
from streamer.protocol import MAX_CREDIT
from streamer.stream import Batch, Stream, StreamRequest
from streamer.transport import (
    Deadline,
    StreamError,
    TransientError,
    connected,
    open_session,
    receive_answer,
    token_headers,
    with_retries,
)

__all__ = ["Batch", "Stream", "StreamClient", "StreamError"]

PAGE_DOCUMENTS = 1000
PAGE_BYTES = 4 << 20
AHEAD_BYTES = 2 << 20
"""Enough to hide the way to a server in the same building, and nothing in memory."""
FEWEST_AHEAD = 8


class StreamClient(Closing):
    """Talks to the servers at `urls` (ws://host:port/ws), any of which may answer.

    Every method may be called from any thread. All raise StreamError: at once for what is wrong
    for good, and after `deadline_seconds` without progress for the rest.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None = None,
        *,
        ca_file: Path | str | None = None,
        deadline_seconds: float = 60.0,
    ) -> None:
        """Connects when first asked to.

        token: secret that the servers ask for; the environment variable BABYGPT_STREAM_TOKEN
        where it is None. ca_file: PEM certificates of the authorities that servers at wss://
        addresses are verified against; the system's where it is None.
        """
        if isinstance(urls, str) or not urls:
            raise ValueError("urls must be a list of at least one address")
        self.urls = list(urls)
        headers = token_headers(token)
        try:
            secure = ca_file is not None or any(url.startswith("wss:") for url in urls)
            tls = client_context(ca_file) if secure else True
        except AccessError as error:
            raise StreamError("refused", "ca_file", str(error)) from error
        self.deadline_seconds = deadline_seconds
        self._tokenizers: dict[str, str] = {}
        self._streams: list[Stream] = []
        self._lock = threading.Lock()
        self._background = Background("stream-client")
        self._session = self._background.call(open_session(headers, tls))

    def info(self) -> dict[str, Any]:
        """What the server says of itself: version, protocol, limits, sources."""
        return self._background.call(self._request({"op": "info"}, self._deadline()))

    def documents(self, *, split: str, fraction: float, salt: str, max_documents: int) -> list[str]:
        """The first documents of a split in natural order, as raw text.

        Of several sources each gives its share by weight, as far as it has so many.
        """
        return self._background.call(self._documents(split, fraction, salt, max_documents))

    def upload_tokenizer(self, tokenizer_json: str) -> str:
        """Makes a tokenizer known to the server; returns its SHA-256 in hexadecimal digits."""
        digest = hashlib.sha256(tokenizer_json.encode()).hexdigest()
        self._tokenizers[digest] = tokenizer_json
        deadline = self._deadline()

        async def attempt(url: str) -> None:
            async with connected(self._session, url) as socket:
                await self._upload(socket, digest, deadline)

        self._background.call(with_retries(self.urls, deadline, attempt))
        return digest

    def open(
        self,
        *,
        plan: dict[str, Any],
        split: str,
        cursor: dict[str, Any] | None = None,
        batch: int,
        rank: int = 0,
        world: int = 1,
        credit: int | None = None,
        epochs: int | None = None,
    ) -> Stream:
        """Opens a stream of one rank's part of each batch, from `cursor` on.

        `plan` may lack `sources`, which the server fills in; a plan with them is refused where
        the server's data differ. Waits until the first group of shards is prepared. `credit` is
        how many batches are fetched ahead; None is as many as AHEAD_BYTES hold.
        """
        if credit is None:
            row_bytes = 2 * (int(plan.get("sequence_length") or 0) + 1)
            credit = AHEAD_BYTES * world // max(1, batch * row_bytes)
            credit = min(max(credit, FEWEST_AHEAD), MAX_CREDIT)
        fields = {"plan": plan, "split": split, "cursor": cursor, "batch": batch, "rank": rank}
        request = StreamRequest(fields | {"world": world, "epochs": epochs}, credit)
        stream = Stream(request, self.urls, self._deadline(), self._background.loop, self._session)
        with self._lock:
            if self._background.is_closed:
                raise StreamError("closed", "", "this client is closed")
            for known in self._streams:
                if known.is_finished:
                    known.close()
            self._streams = [*(s for s in self._streams if not s.is_closed), stream]
        stream.start(self._upload)
        return stream

    def close(self) -> None:
        """Closes all streams and connections and ends the thread."""
        with self._lock:
            if self._background.is_closed:
                return
            for stream in self._streams:
                stream.close()
            self._background.call(self._session.close())
            self._background.close()

    def _deadline(self) -> Deadline:
        return Deadline(self.deadline_seconds)

    async def _request(self, message: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        async def attempt(url: str) -> dict[str, Any]:
            async with connected(self._session, url) as socket:
                await socket.send_json(message)
                reply = await receive_answer(socket, deadline)
                if isinstance(reply, bytes) or reply["op"] != message["op"]:
                    raise TransientError("the server answered something else")
                return reply

        return await with_retries(self.urls, deadline, attempt)

    async def _documents(
        self, split: str, fraction: float, salt: str, max_documents: int
    ) -> list[str]:
        sources = (await self._request({"op": "info"}, self._deadline()))["sources"]
        total = sum(source["weight"] for source in sources)
        found: list[str] = []
        for number, source in enumerate(sources):
            share = math.ceil(max_documents * source["weight"] / total)
            wanted = {"source": number, "split": split, "fraction": fraction, "salt": salt}
            found += await self._pages(wanted, min(share, max_documents - len(found)))
        return found

    async def _pages(self, wanted: dict[str, Any], max_documents: int) -> list[str]:
        """The first documents of one source."""
        found: list[str] = []
        cursor: dict[str, Any] | None = None
        deadline = self._deadline()
        while len(found) < max_documents:
            limit = min(PAGE_DOCUMENTS, max_documents - len(found))
            message = {"op": "text", "max_documents": limit, "max_bytes": PAGE_BYTES}
            page = await self._request(message | wanted | {"cursor": cursor}, deadline)
            deadline.advance()
            found += page["documents"]
            cursor = page["next"]
            if cursor is None:
                break
        return found

    async def _upload(
        self, socket: aiohttp.ClientWebSocketResponse, digest: str, deadline: Deadline
    ) -> None:
        """Sends a tokenizer to the server of a connection unless it is known there."""
        if digest not in self._tokenizers:
            message = f"tokenizer {digest} is unknown to the server; upload it first"
            raise StreamError("unknown_tokenizer", "plan.tokenizer.hash", message)
        for content in ({"hash": digest}, {"json": self._tokenizers[digest]}):
            await socket.send_json({"op": "tokenizer"} | content)
            reply = await receive_answer(socket, deadline)
            if isinstance(reply, bytes) or reply.get("op") != "tokenizer":
                raise TransientError("the server answered something else")
            if reply.get("known"):
                return
        raise TransientError("the server forgot a tokenizer at once")
