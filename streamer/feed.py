"""A feed: the server's side of one open stream, sending as far as credit goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from streamer.cursor import MAX_COUNT, Cursor, Position, parse_cursor
from streamer.errors import RequestError, SourceError
from streamer.fields import Fields
from streamer.library import Library, as_request_error
from streamer.plan import Plan, agree, tokenizer_hash
from streamer.protocol import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_CREDIT,
    MAX_WORLD,
    PREPARING_SECONDS,
)
from streamer.reader import Reader, Share, Step
from streamer.split import SPLITS
from streamer.tokens import TextTokenizer

T = TypeVar("T")

CHUNK_BYTES = 4 << 20
"""Frames made at once in a thread: the hop costs as much as making a small frame."""


@dataclass(frozen=True)
class OpenRequest:
    """What a client asks for with `open`, checked as far as that needs no data."""

    plan: object
    """Proposed plan, with or without sources."""
    share: Share
    """Split, batch and rank."""
    cursor: Fields | None
    """Where to begin, None at the beginning."""
    credit: int
    """Batches that may be sent at once."""

    @classmethod
    def parse(cls, fields: Fields) -> OpenRequest:
        """Takes the fields of an `open` message; raises RequestError."""
        plan = fields.take("plan")
        split = fields.choice("split", SPLITS)
        batch = fields.integer("batch", 1, MAX_BATCH)
        world = fields.integer("world", 1, MAX_WORLD)
        rank = fields.integer("rank", 0, world - 1)
        credit = fields.integer("credit", 0, MAX_CREDIT)
        epochs = fields.integer("epochs", 1, MAX_COUNT) if fields.has("epochs") else None
        cursor = fields.mapping("cursor") if fields.has("cursor") else None
        fields.discard("epochs")
        fields.discard("cursor")
        fields.done()
        if batch % world:
            raise RequestError(
                "bad_request", "batch", f"batch {batch} is not divisible by world {world}"
            )
        return cls(plan, Share(split, batch, rank, world, epochs), cursor, credit)


class Feed:
    """Serves one stream until its end, its error or its cancellation."""

    def __init__(
        self,
        stream: int,
        request: OpenRequest,
        library: Library,
        send_json: Callable[[dict[str, Any]], Awaitable[None]],
        send_bytes: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._request = request
        self._library = library
        self._send_json = send_json
        self._send_bytes = send_bytes
        self._credit = request.credit
        self._credited = asyncio.Event()

    def grant(self, num_batches: int) -> None:
        """Lets the feed send more batches; raises RequestError beyond what a client may hold."""
        if self._credit + num_batches > MAX_CREDIT:
            raise RequestError("limit", "batches", f"a stream has at most {MAX_CREDIT} of credit")
        self._credit += num_batches
        self._credited.set()

    async def run(self) -> None:
        """Opens and serves; raises RequestError."""
        try:
            reader, plan = await self._while_alive(self._open())
        except SourceError as error:
            raise as_request_error(error) from error
        try:
            await self._while_alive(reader.begin())
            await self._send_json(
                {
                    "op": "opened",
                    "stream": self._stream,
                    "plan": plan.payload,
                    "plan_id": plan.plan_id,
                    "cursor": reader.cursor.payload(),
                }
            )
            await self._serve(reader, plan)
        except SourceError as error:
            raise as_request_error(error) from error
        finally:
            reader.close()

    async def _open(self) -> tuple[Reader, Plan]:
        listings = await self._library.listings()
        tokenizer = self._find_tokenizer()
        plan = agree(self._request.plan, listings, tokenizer.vocab_size)
        share, spec = self._request.share, plan.train_spec
        num_bytes = -(-share.batch // share.world) * (plan.sequence_tokens + 1)
        num_bytes *= np.dtype(plan.dtype).itemsize
        if num_bytes > MAX_BATCH_BYTES:
            raise RequestError(
                "limit", "batch", f"a batch of {num_bytes} bytes is above {MAX_BATCH_BYTES}"
            )
        if spec.fraction == (0.0 if share.split == "validation" else 1.0):
            raise RequestError(
                "empty_split",
                "plan.validation.fraction",
                f"a validation fraction of {spec.fraction} leaves the {share.split} split empty",
            )
        if self._request.cursor is None:
            cursor = Cursor(0, (Position(),) * len(listings))
        else:
            cursor = parse_cursor(self._request.cursor, len(listings))
        return Reader(self._library, listings, plan, tokenizer, share, cursor), plan

    def _find_tokenizer(self) -> TextTokenizer:
        digest = tokenizer_hash(self._request.plan)
        tokenizer = self._library.find_tokenizer(digest)
        if tokenizer is None:
            raise RequestError(
                "unknown_tokenizer", "plan.tokenizer.hash", "upload the tokenizer first"
            )
        return tokenizer

    async def _serve(self, reader: Reader, plan: Plan) -> None:
        num_bytes = self._request.share.batch * (plan.sequence_tokens + 1)
        num_bytes *= np.dtype(plan.dtype).itemsize
        most = max(1, CHUNK_BYTES * self._request.share.world // num_bytes)
        while True:
            while not self._credit:
                self._credited.clear()
                await self._credited.wait()
            steps = await self._while_alive(reader.steps(min(self._credit, most)))
            if not steps:
                following = reader.cursor.payload()
                await self._send_json({"op": "end", "stream": self._stream, "next": following})
                return
            for frame in await self._library.quickly(partial(self._frames, steps, plan)):
                self._credit -= 1
                await self._send_bytes(frame)

    def _frames(self, steps: list[Step], plan: Plan) -> list[bytes]:
        width = plan.sequence_tokens + 1
        return [step.frame(self._stream, width, plan.dtype) for step in steps]

    async def _while_alive(self, work: Awaitable[T]) -> T:
        """Waits for `work`, telling the client every now and then how far it is."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=PREPARING_SECONDS))[0]:
                done = self._library.num_characters
                message = {"op": "preparing", "stream": self._stream, "characters": done}
                await self._send_json(message)
            return await task
        finally:
            task.cancel()
