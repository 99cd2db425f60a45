"""A stream of batches that are made here, from the samples of a server of EIR's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from streamer.background import wait_for
from streamer.eir.held_out import HeldOut
from streamer.eir.packing import Packed, Packer
from streamer.eir.samples import documents_of
from streamer.eir.tape import Tape
from streamer.errors import RequestError
from streamer.split import is_validation
from streamer.stream import Batch
from streamer.tokens import TextTokenizer
from streamer.transport import StreamError

T = TypeVar("T")

MAX_FRUITLESS_SAMPLES = 100_000
"""Samples in a row without one of the wanted split, after which there is none."""


@dataclass(frozen=True)
class Split:
    """Which samples belong to a stream: each counts as one document."""

    is_validation: bool
    """Whether it is the validation split."""
    fraction: float
    """Share of the samples that are validation text."""
    salt: str
    """Key of the hash that splits."""

    def keep(self, texts: list[str]) -> list[str]:
        """The samples of this split, wherever and however often they come."""
        return [
            text
            for text in texts
            if is_validation(text.encode(), self.fraction, self.salt) == self.is_validation
        ]


@dataclass(frozen=True)
class EirRequest:
    """What a stream is made of."""

    plan: dict[str, Any]
    """As a StreamClient takes it; of an order it knows only the server's."""
    split: Split
    """The samples that it is about."""
    tokenizer: TextTokenizer
    """Makes the tokens."""
    held_out: HeldOut
    """The validation text of the client."""
    separator: str | None
    """The word that the server writes between documents of a sample, if it does."""
    batch: int
    """Blocks a batch."""
    credit: int
    """Batches that are made ahead; 0 makes each when it is asked for."""
    epochs: int | None
    """Passes of the server, None for no end."""


class EirStream:
    """An iterator of batches; made by EirClient.open.

    `__next__` raises StreamError where it cannot go on, after all batches that came before.
    """

    def __init__(
        self, request: EirRequest, tape: Tape, loop: asyncio.AbstractEventLoop, pool: Executor
    ) -> None:
        self.plan = request.plan
        """The plan, for a checkpoint to keep."""
        self.is_closed = False
        self._request = request
        self._tape = tape
        self._loop = loop
        self._pool = pool
        self._number = 0
        self._packer = _packer(request)
        self._batches = self._make_batches()
        self._last: Exception | None = None  # raised by every call of __next__ from then on
        self._queue: asyncio.Queue[Batch | Exception] = asyncio.Queue(request.credit)
        self._filling: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[Any] | None = None

    @property
    def reconnects(self) -> int:
        """Connections of the whole client that replaced a broken one."""
        return self._tape.source.reconnects

    def __iter__(self) -> EirStream:
        return self

    def __next__(self) -> Batch:
        if self._last is None and self.is_closed:
            raise StreamError("closed", "", "this stream is closed")
        if self._last is not None:
            raise self._last
        batch = wait_for(self._next(), self._loop)
        if isinstance(batch, Exception):
            self._last = batch
            raise batch
        return batch

    def close(self) -> None:
        """Ends the stream and its wait; what the client has read stays for the next stream."""
        if not self.is_closed:
            self.is_closed = True
            wait_for(self._stop(), self._loop)

    async def _stop(self) -> None:
        tasks = [task for task in (self._filling, self._waiting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> Batch | Exception:
        self._waiting = asyncio.current_task()
        if not self._request.credit:
            return await self._make_next()
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill())
        return await self._queue.get()

    async def _fill(self) -> None:
        """Makes batches ahead, as far as the queue has room."""
        while True:
            batch = await self._make_next()
            await self._queue.put(batch)
            if isinstance(batch, Exception):
                return

    async def _make_next(self) -> Batch | Exception:
        """The next batch, or what the consumer is to raise; StopIteration at the end."""
        try:
            return await anext(self._batches)
        except StopAsyncIteration:
            return StopIteration()
        except Exception as error:  # the consumer must not wait for a task that failed
            return error

    async def _read(self) -> list[str]:
        """Samples; validation text is only looked at, since it lies among text to train on."""
        if not self._request.split.is_validation:
            return await self._tape.take()
        texts, self._number = await self._tape.look(self._number)
        return texts

    async def _make_batches(self) -> AsyncIterator[Batch]:
        epoch = num_samples = num_fruitless = num_documents = 0
        epochs = self._request.epochs
        start = _cursor(0, 0)
        while epochs is None or epoch < epochs:
            texts = await self._read()
            packed: list[Packed] = []
            if texts:
                kept, packed = await self._loop.run_in_executor(self._pool, self._pack, texts)
                num_samples += len(texts)
                num_documents += kept
                num_fruitless = 0 if kept else num_fruitless + len(texts)
            if num_fruitless >= MAX_FRUITLESS_SAMPLES or (not texts and not num_documents):
                raise self._empty(num_samples)
            if not texts:
                epoch, num_samples, num_documents = epoch + 1, 0, 0
                packed = self._packer.finish() if epoch == epochs else []
            for tokens, lengths in packed:
                following = _cursor(epoch, num_samples)
                yield Batch(tokens, lengths, start, following)
                start = following

    def _pack(self, texts: list[str]) -> tuple[int, list[Packed]]:
        """How many of the samples belong here, and the batches that they complete."""
        request = self._request
        kept = request.split.keep(texts)
        if request.split.is_validation:
            request.held_out.add(kept)
        else:
            kept = [piece for text in kept for piece in request.held_out.without(text)]
        documents = [piece for text in kept for piece in documents_of(text, request.separator)]
        packed: list[Packed] = []
        try:
            for _, encoded in request.tokenizer.encode(documents):
                packed += self._packer.add(encoded)
        except RequestError as error:
            raise StreamError(error.code, error.field, str(error)) from error
        return len(kept), packed

    def _empty(self, num_samples: int) -> StreamError:
        split = "validation" if self._request.split.is_validation else "training"
        text = f"none of the server's {num_samples} samples is {split} text"
        return StreamError("empty_split", "", f"{text}: it needs more, or another fraction or salt")


def _cursor(epoch: int, num_samples: int) -> dict[str, Any]:
    """Passes of the server, and samples of the next that had been read when a batch was made.

    It tells a reader how far a run came. The protocol knows no way to go on from there.
    """
    return {"eir": {"epoch": epoch, "samples": num_samples}}


def _packer(request: EirRequest) -> Packer:
    tokenizer = request.plan["tokenizer"]
    size = max(request.tokenizer.vocab_size, tokenizer.get("vocab_size", 0))
    return Packer(
        sequence_tokens=request.plan["sequence_length"],
        eot_id=tokenizer["eot_id"],
        dtype="<u2" if size <= 1 << 16 else "<u4",
        batch=request.batch,
    )
