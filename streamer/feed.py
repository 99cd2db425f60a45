"""A feed: the server's side of one open stream, sending as far as credit goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from streamer.cursor import MAX_COUNT, Cursor, Position, parse_cursor
from streamer.errors import RequestError, SourceError
from streamer.fields import Fields
from streamer.library import Library, as_request_error
from streamer.logs import event
from streamer.metrics import StreamRecord
from streamer.plan import Plan, agree, tokenizer_hash
from streamer.protocol import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_CREDIT,
    MAX_WORLD,
    PREPARING_SECONDS,
)
from streamer.reader import Reader, Share, make_message
from streamer.signs import while_waiting
from streamer.split import SPLITS
from streamer.tokens import TextTokenizer

T = TypeVar("T")
log = logging.getLogger(__name__)

MESSAGE_BYTES = 256 << 10
"""Batches sent in one message, as far as they are at hand and there is credit for them: making and
receiving a message costs as much as making a small batch."""


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
        record: StreamRecord,
    ) -> None:
        self._stream = stream
        self._request = request
        self._library = library
        self._send_json = send_json
        self._send_bytes = send_bytes
        self._record = record
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
            self._record.opened(plan.plan_id, reader.cursor)
            self._log_opened(plan)
            await self._serve(reader, plan)
        except SourceError as error:
            raise as_request_error(error) from error
        finally:
            reader.close()

    def _log_opened(self, plan: Plan) -> None:
        share = self._request.share
        event(
            log,
            logging.INFO,
            "stream_opened",
            peer=self._record.peer,
            stream=self._stream,
            plan=plan.plan_id,
            split=share.split,
            batch=share.batch,
            rank=share.rank,
            world=share.world,
        )

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
        width = plan.sequence_tokens + 1
        share = self._request.share
        num_bytes = share.batch // share.world * width * np.dtype(plan.dtype).itemsize
        most = max(1, MESSAGE_BYTES // num_bytes)
        while True:
            if not self._credit:
                self._record.enter("credit")
            while not self._credit:
                self._credited.clear()
                await self._credited.wait()
            self._record.enter("data")
            steps = await self._while_alive(reader.steps(min(self._credit, most)))
            if not steps:
                following = reader.cursor.payload()
                await self._send_json({"op": "end", "stream": self._stream, "next": following})
                return
            self._credit -= len(steps)
            make = partial(make_message, steps, self._stream, width, plan.dtype)
            message = await self._library.quickly(make)
            self._record.enter("sending")
            await self._send_bytes(message)
            num_tokens = sum(step.num_rows for step in steps) * plan.sequence_tokens
            self._record.sent(len(steps), num_tokens, len(message), steps[-1].following)

    async def _while_alive(self, work: Awaitable[T]) -> T:
        """Waits for `work`, telling the client every now and then how far it is."""

        async def tell() -> None:
            done = self._library.progress
            await self._send_json({"op": "preparing", "stream": self._stream, "progress": done})

        return await while_waiting(work, tell, PREPARING_SECONDS)
