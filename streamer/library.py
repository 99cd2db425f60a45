"""The library: what is served, its tokenizers and its prepared shards, shared by all streams.

Everything slow happens in threads; whoever asks for the same shard waits for the same work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from streamer.blocks import Group, PackedGroup
from streamer.cache import TokenCache
from streamer.cursor import Position
from streamer.errors import RequestError, SourceError
from streamer.logs import event
from streamer.metrics import Metrics
from streamer.order import SHARDS, Order, permutation_key
from streamer.plan import Plan
from streamer.sources.listing import Listing, Shard
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
from streamer.split import split_documents
from streamer.tokens import ShardTokens, StoppingError, TextTokenizer, TokenSpec, tokenize

T = TypeVar("T")
log = logging.getLogger(__name__)

NUM_PREPARING_THREADS = 2
"""One reads while the other tokenizes, which uses all cores by itself."""
KEPT_TOKEN_BYTES = 256 << 20
"""Prepared shards kept at hand: validation is opened again and again."""
KEPT_TEXT_SHARDS = 2
"""Shards of documents kept at hand: text is asked for page by page."""
KEPT_ORDERS = 16
"""Orders of shards: one for each source, seed and epoch that is being served."""
SIGNS_OF_LIFE = (
    *("hashed_files", "listed_files", "fetched_bytes", "read_bytes", "read_documents"),
    "waits",  # for a store, which has a deadline of its own
)
"""Counters of the shelf that grow while the server is at work."""
KEPT_TOKENIZERS = 64
"""Uploaded tokenizers; the oldest is forgotten first, and uploaded again when missed."""


class Library:
    """What a server serves. All methods belong to its event loop; `close` ends its threads."""

    def __init__(self, sources: Sequence[SourceSpec], cache: TokenCache) -> None:
        self.sources = tuple(sources)
        self._cache = cache
        self.shelf = Shelf(cache.disk)
        """Where sources are listed and read; its counters count what that took."""
        self._preparing = ThreadPoolExecutor(NUM_PREPARING_THREADS, "prepare")
        self._quick = ThreadPoolExecutor(4, "quick")
        self._listings: dict[SourceSpec, Listing] = {}
        self._listing_lock = asyncio.Lock()
        self._tokenizers: OrderedDict[str, TextTokenizer] = OrderedDict()
        self._shards: OrderedDict[tuple[str, TokenSpec], ShardTokens] = OrderedDict()
        self._pending: dict[Hashable, asyncio.Task[Any]] = {}
        self._texts: OrderedDict[str, list[str]] = OrderedDict()
        self._orders: OrderedDict[tuple[int | None, int], Order] = OrderedDict()
        self._reported_cuts: set[tuple[str, int, TokenSpec]] = set()
        self._stopping = threading.Event()
        self._progress_lock = threading.Lock()
        self._num_characters = 0
        self.metrics = Metrics()
        """What is counted, here and by all that serves this library."""

    def close(self) -> None:
        """Gives up what is being prepared."""
        self._stopping.set()
        self.shelf.close()
        for task in self._pending.values():
            task.cancel()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._quick.shutdown(wait=False, cancel_futures=True)

    @property
    def progress(self) -> int:
        """All that was done so far: a sign of life for those who wait, and without a unit."""
        return self._num_characters + sum(self.shelf.counters[name] for name in SIGNS_OF_LIFE)

    async def quickly(self, function: Callable[[], T]) -> T:
        """Runs what takes no more than moments outside the event loop; raises StoppingError."""
        return await self._run(self._quick, function)

    async def _run(self, pool: Executor, function: Callable[[], T]) -> T:
        try:
            if self._stopping.is_set():
                raise StoppingError
            return await asyncio.get_running_loop().run_in_executor(pool, function)
        except Exception as error:
            if self._stopping.is_set():  # what it needs is closed already
                raise StoppingError from error
            raise

    async def listings(self) -> tuple[Listing, ...]:
        """The sources as they are now, listed anew where a file came, went or changed."""
        async with self._listing_lock:
            found = [await self._listing(spec) for spec in self.sources]
        return tuple(found)

    @property
    def known_listings(self) -> tuple[Listing, ...]:
        """The sources as they were when they were last looked at."""
        return tuple(self._listings[spec] for spec in self.sources if spec in self._listings)

    @property
    def num_tokenizers(self) -> int:
        """Tokenizers that are known."""
        return len(self._tokenizers)

    async def _listing(self, spec: SourceSpec) -> Listing:
        known = self._listings.get(spec)
        scanned = await self.quickly(lambda: self.shelf.scan(spec.address)) if known else None
        if known is None or scanned != known.snapshot:
            found = await self.quickly(lambda: self.shelf.list_source(spec))
            if known is not None and known.fingerprint != found.fingerprint:
                event(log, logging.WARNING, "source_changed", source=found.name)
            self._listings[spec] = known = found
        return known

    def find_tokenizer(self, digest: str) -> TextTokenizer | None:
        """An uploaded tokenizer by its hash."""
        if digest in self._tokenizers:
            self._tokenizers.move_to_end(digest)
        return self._tokenizers.get(digest)

    async def add_tokenizer(self, tokenizer_json: str) -> TextTokenizer:
        """Keeps a tokenizer; raises RequestError if it is none."""
        tokenizer = await self.quickly(lambda: TextTokenizer(tokenizer_json))
        self._tokenizers[tokenizer.hash] = tokenizer
        while len(self._tokenizers) > KEPT_TOKENIZERS:
            self._tokenizers.popitem(last=False)
        return tokenizer

    async def documents(self, listing: Listing, index: int) -> list[str]:
        """The documents of the index-th shard, prompts and responses joined; raises SourceError."""
        shard = listing.shards[index]
        found = self._texts.get(shard.fingerprint)
        self.metrics.count_cache("text", hit=found is not None)
        if found is not None:
            return found
        return await self._once(shard.fingerprint, lambda: self._read(shard, listing.spec))

    async def _read(self, shard: Shard, spec: SourceSpec) -> list[str]:
        def work() -> list[str]:
            texts, size = self.shelf.read_shard(shard, spec), spec.num_parts
            if size == 1:
                return texts
            return ["".join(texts[start : start + size]) for start in range(0, len(texts), size)]

        found = self._texts[shard.fingerprint] = await self._run(self._preparing, work)
        while len(self._texts) > KEPT_TEXT_SHARDS:
            self._texts.popitem(last=False)
        return found

    async def _once(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, done once for all who ask for it meanwhile, or who ask again."""
        task: asyncio.Task[T] | None = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._pending[key]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone: it is no complaint of asyncio's then

    async def group(
        self,
        listing: Listing,
        source: int,
        plan: Plan,
        spec: TokenSpec,
        tokenizer: TextTokenizer,
        position: Position,
    ) -> Group:
        """The group of shards at a position of the plan's source number `source`, prepared.

        Raises SourceError.
        """
        size, epoch, key, order_key = plan.shuffle_shards, position.epoch, None, None
        if plan.seed is not None:
            order_key = permutation_key(plan.seed, epoch, SHARDS, source)
            key = permutation_key(plan.seed, epoch, 1 + position.group, source)
        order = self._order(order_key, len(listing.shards))
        first = position.group * size
        chosen = await self.quickly(
            lambda: [listing.shards[index] for index in order.part(first, first + size).tolist()]
        )
        prepared = await asyncio.gather(
            *(self._tokens(shard, listing.spec, spec, tokenizer) for shard in chosen)
        )
        tokens = [shard.tokens for shard in prepared]
        if listing.spec.prompt is None:
            return await self.quickly(lambda: Group(tokens, plan.sequence_tokens, key, spec.eot_id))
        packed = await self.quickly(
            lambda: PackedGroup(tokens, plan.sequence_tokens, key, spec.eot_id)
        )
        self._report_cuts(listing, [shard.fingerprint for shard in chosen], plan, spec, packed)
        return packed

    def _order(self, key: int | None, size: int) -> Order:
        """The order of a source's shards in an epoch."""
        order = self._orders.setdefault((key, size), Order(key, size))
        self._orders.move_to_end((key, size))
        while len(self._orders) > KEPT_ORDERS:
            self._orders.popitem(last=False)
        return order

    def _report_cuts(
        self,
        listing: Listing,
        shards: Sequence[str],
        plan: Plan,
        spec: TokenSpec,
        group: PackedGroup,
    ) -> None:
        """Logs once of each shard how many samples do not fit into a block."""
        for fingerprint, cuts in zip(shards, group.cuts, strict=True):
            key = (fingerprint, plan.sequence_tokens, spec)
            if not any(cuts) or key in self._reported_cuts:
                continue
            self._reported_cuts.add(key)
            event(
                log,
                logging.WARNING,
                "samples_cut",
                source=listing.name,
                split=spec.split,
                sequence_length=plan.sequence_tokens,
                cut=cuts.num_cut,
                left_out=cuts.num_left_out,
            )

    async def _tokens(
        self, shard: Shard, source: SourceSpec, spec: TokenSpec, tokenizer: TextTokenizer
    ) -> ShardTokens:
        key = (shard.fingerprint, spec)
        found = self._shards.get(key)
        self.metrics.count_cache("memory", hit=found is not None)
        if found is not None:
            self._shards.move_to_end(key)
            return found
        return await self._once(key, lambda: self._prepare(shard, source, spec, tokenizer))

    async def _prepare(
        self, shard: Shard, source: SourceSpec, spec: TokenSpec, tokenizer: TextTokenizer
    ) -> ShardTokens:
        def work() -> tuple[ShardTokens, float | None]:
            """The tokens, and the seconds it took to make them, None where there were some."""
            found = self._cache.load(shard.fingerprint, spec)
            if found is not None:
                return found, None
            began = time.perf_counter()
            texts, num_bytes = split_documents(
                self.shelf.read_shard(shard, source),
                spec.split,
                spec.fraction,
                spec.salt,
                source.num_parts,
            )
            made = tokenize(texts, num_bytes, tokenizer, spec, self._report)
            stored = self._cache.store(shard.fingerprint, spec, made)
            return stored, time.perf_counter() - began

        self.metrics.num_shards_preparing += 1
        try:
            tokens, seconds = await self._run(self._preparing, work)
        finally:
            self.metrics.num_shards_preparing -= 1
        self.metrics.count_cache("disk", hit=seconds is None)
        if seconds is not None:
            self.metrics.num_shards_prepared += 1
            self.metrics.shard_prepare_seconds += seconds
        self._shards[shard.fingerprint, spec] = tokens
        num_bytes = sum(shard.tokens.nbytes for shard in self._shards.values())
        while num_bytes > KEPT_TOKEN_BYTES and len(self._shards) > 1:
            num_bytes -= self._shards.popitem(last=False)[1].tokens.nbytes
        return tokens

    def _report(self, num_characters: int) -> None:
        if self._stopping.is_set():
            raise StoppingError
        with self._progress_lock:
            self._num_characters += num_characters


def as_request_error(error: SourceError) -> RequestError:
    """What a client is told of a source that cannot be read."""
    return RequestError("source", "", str(error), retry=error.retry)
