"""The client of EIR's protocol 1.0: the same batches, from a server that knows only samples.

It splits, tokenizes and packs what comes; the rest is as with `streamer.client`. Two things the
protocol can not give: a way back to a place in the text, and a place of one's own, since all
clients of such a server share one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp

from streamer.background import Background
from streamer.closing import Closing
from streamer.eir.held_out import HeldOut
from streamer.eir.samples import documents_of
from streamer.eir.source import SampleSource, SourceOptions
from streamer.eir.stream import EirRequest, EirStream, Split
from streamer.eir.tape import Tape
from streamer.errors import RequestError
from streamer.split import SPLITS
from streamer.tokens import TextTokenizer
from streamer.transport import StreamError, open_session, token_headers

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 512
"""Samples a request; more are seconds of work for some servers, and megabytes of JSON."""
DEFAULT_BATCH_SIZE = 256
DEFAULT_CREDIT = 8


class EirClient(Closing):
    """Talks to the server at `url`, as StreamClient does to its own kind.

    A sample is a document, and belongs to a split by the hash of its text. From samples to train
    on, what was read as validation text is cut out. What the server itself takes for validation
    ids plays no part, and is left as it is.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        output: str | None = None,
        separator: str | None = None,
        may_reset: bool = False,
        deadline_seconds: float = 60.0,
        notice: Callable[[str], None] = log.warning,
    ) -> None:
        """Connects when first asked for text.

        token: secret that the server asks for; BABYGPT_STREAM_TOKEN of the environment where it
        is None. notice: is told, one line each, what happens to the text on its way.
        """
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"batch_size must be from 1 to {MAX_BATCH_SIZE}")
        self._options = SourceOptions(url, batch_size, output, may_reset, deadline_seconds, notice)
        headers = token_headers(token)
        self._separator = separator
        self._held_out = HeldOut()
        self._tokenizers: dict[str, TextTokenizer] = {}
        self._streams: list[EirStream] = []
        self._pool = ThreadPoolExecutor(1, "eir-tokens")
        self._background = Background("eir-client")
        self._session, self._tape = self._background.call(self._begin(headers))

    def documents(self, *, split: str, fraction: float, salt: str, max_documents: int) -> list[str]:
        """The first documents of a split, as raw text; they are kept for training."""
        wanted = Split(_is_validation(split), fraction, salt)
        return self._background.call(self._documents(wanted, max_documents))

    def upload_tokenizer(self, tokenizer_json: str) -> str:
        """Makes a tokenizer known, to this client; returns its SHA-256."""
        try:
            tokenizer = TextTokenizer(tokenizer_json)
        except RequestError as error:
            raise StreamError(error.code, error.field, str(error)) from error
        self._tokenizers[tokenizer.hash] = tokenizer
        return tokenizer.hash

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
    ) -> EirStream:
        """Opens a stream. That of the training split takes the samples from where the client is.

        That of the validation split finds its own from the first one that is kept, makes no batch
        ahead, and leaves all samples to the training. `credit` is how many batches are made ahead.
        """
        _check_place(cursor, rank, world)
        credit = DEFAULT_CREDIT if credit is None else credit
        if batch < 1 or credit < 1:
            raise StreamError("bad_request", "batch", "batch and credit must be at least 1")
        digest = plan["tokenizer"]["hash"]
        if digest not in self._tokenizers:
            message = f"tokenizer {digest} is unknown; upload it first"
            raise StreamError("unknown_tokenizer", "plan.tokenizer.hash", message)
        is_validation = _is_validation(split)
        request = EirRequest(
            plan,
            Split(is_validation, plan["validation"]["fraction"], plan["validation"]["salt"]),
            self._tokenizers[digest],
            self._held_out,
            self._separator,
            batch,
            0 if is_validation else credit,
            epochs,
        )
        self._streams = [stream for stream in self._streams if not stream.is_closed]
        self._streams.append(EirStream(request, self._tape, self._background.loop, self._pool))
        return self._streams[-1]

    def close(self) -> None:
        """Closes all streams and the connection and ends the threads."""
        if self._background.is_closed:
            return
        for stream in self._streams:
            stream.close()
        self._background.call(self._end())
        self._background.close()
        self._pool.shutdown(cancel_futures=True)

    async def _begin(self, headers: dict[str, str]) -> tuple[aiohttp.ClientSession, Tape]:
        session = await open_session(headers)
        return session, Tape(SampleSource(self._options, session))

    async def _end(self) -> None:
        await self._tape.close()
        await self._session.close()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _documents(self, wanted: Split, max_documents: int) -> list[str]:
        found: list[str] = []
        number = 0
        while len(found) < max_documents:
            texts, number = await self._tape.look(number)
            if not texts:
                break
            for text in wanted.keep(texts):
                found += documents_of(text, self._separator)
        return found[:max_documents]


def _is_validation(split: str) -> bool:
    if split not in SPLITS:
        raise StreamError("bad_request", "split", f"split must be one of {', '.join(SPLITS)}")
    return split == "validation"


def _check_place(cursor: dict[str, Any] | None, rank: int, world: int) -> None:
    """Refuses what the protocol does not know."""
    if cursor is not None:
        message = (
            "the EIR protocol has no positions: start a new run, or serve the corpus with "
            "python -m streamer for exact resume"
        )
        raise StreamError("refused", "cursor", message)
    if (rank, world) != (0, 1):
        message = "the EIR protocol knows no ranks: train on one device"
        raise StreamError("refused", "world", message)
