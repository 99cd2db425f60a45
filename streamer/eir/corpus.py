"""A corpus as EIR's clients see it: samples in natural order, each with an id for ever.

A sample is a document. A document of more than so many words is cut behind white space into
pieces of that many words, which give the document again, byte for byte, when they are put
together. A document without a single word is none: a model can learn nothing from it. Nothing is
added to a text, and in particular no word for its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from streamer.eir.messages import MAX_REPLY_CHARACTERS, OUTPUT_NAME
from streamer.errors import RequestError
from streamer.fields import bad_field
from streamer.library import Library
from streamer.sources.listing import Listing

_ID = re.compile(r"([0-9a-f]{16})-(\d{1,9})-(\d{1,9})-(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Sample:
    """A document, or a piece of one."""

    id: str
    """Hash of all that decides the cutting, then the numbers of shard, document and piece."""
    text: str
    """As it is in the source."""

    @property
    def digest(self) -> bytes:
        """The same for two samples of the same text."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).digest()


def cut(document: str, num_words: int) -> list[str]:
    """Pieces of at most `num_words` words each; white space goes with the word before it."""
    if not document or document.isspace():
        return []
    if len(document) < 2 * num_words:
        return [document]
    pieces = re.compile(rf"\s*+(?:\S++\s*+){{1,{num_words}}}+")
    return [found.group() for found in pieces.finditer(document)]


def data_message(samples: Sequence[Sample]) -> str:
    """The reply to `getData`. The text is an input as well: EIR's model is fed with that."""
    payload = [
        {
            "inputs": {OUTPUT_NAME: sample.text},
            "target_labels": {OUTPUT_NAME: {OUTPUT_NAME: sample.text}},
            "sample_id": sample.id,
        }
        for sample in samples
    ]
    return json.dumps({"type": "data", "payload": payload}, ensure_ascii=False)


class Corpus:
    """The listings of all sources at one moment, one after the other."""

    def __init__(self, library: Library, listings: Sequence[Listing], num_words: int) -> None:
        self._library = library
        self._listings = listings
        self._num_words = num_words
        self._shards = [
            (source, shard)
            for source, listing in enumerate(listings)
            for shard in range(len(listing.shards))
        ]
        self.prefixes = tuple(
            _prefix(listing, source, num_words) for source, listing in enumerate(listings)
        )
        """What the ids of each source begin with; another prefix means another text."""

    @property
    def num_shards(self) -> int:
        """Of all sources."""
        return len(self._shards)

    async def samples(self, number: int) -> list[Sample]:
        """The samples of a shard; raises SourceError."""
        source, shard = self._shards[number]
        documents = await self._library.documents(self._listings[source], shard)
        head = f"{self.prefixes[source]}-{shard}"
        return await self._library.quickly(lambda: self._cut(documents, head))

    def _cut(self, documents: list[str], head: str) -> list[Sample]:
        return [
            Sample(f"{head}-{number}-{piece}", text)
            for number, document in enumerate(documents)
            for piece, text in enumerate(cut(document, self._num_words))
        ]

    async def digests(self, ids: Iterable[str]) -> frozenset[bytes]:
        """The digests of samples by id; raises RequestError for an id that is none of ours."""
        wanted = await self._library.quickly(lambda: self._places(ids))
        found: set[bytes] = set()
        for number, names in wanted.items():
            samples = await self.samples(number)
            found |= await self._library.quickly(partial(_digests, samples, names))
        return frozenset(found)

    def _places(self, ids: Iterable[str]) -> dict[int, set[str]]:
        """The ids in each shard."""
        wanted: dict[int, set[str]] = defaultdict(set)
        numbers = {place: number for number, place in enumerate(self._shards)}
        for name in ids:
            parts = _ID.fullmatch(name)
            if parts is None or parts[1] not in self.prefixes:
                raise _unknown(name)
            place = (self.prefixes.index(parts[1]), int(parts[2]))
            if place not in numbers:
                raise _unknown(name)
            wanted[numbers[place]].add(name)
        return wanted


def _digests(samples: list[Sample], names: set[str]) -> set[bytes]:
    found = {sample.id: sample.digest for sample in samples if sample.id in names}
    for name in names - found.keys():
        raise _unknown(name)
    return set(found.values())


def _prefix(listing: Listing, source: int, num_words: int) -> str:
    parts = [listing.fingerprint, listing.spec.on_bad_document, source, num_words]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def _unknown(name: str) -> RequestError:
    return bad_field(
        "payload.validation_ids", f"holds {name[:60]!r}, which is no sample served here"
    )


class Reader:
    """Hands out the samples of a corpus to whoever asks, each once in each of `num_passes`.

    One shard is read ahead.
    """

    def __init__(self, corpus: Corpus, num_passes: int) -> None:
        self._corpus = corpus
        self._num_shards = num_passes * corpus.num_shards
        self._next_shard = 0
        self._samples: list[Sample] = []
        self._index = 0
        self._num_taken = 0
        self._lock = asyncio.Lock()
        self._ahead: asyncio.Task[list[Sample]] | None = None
        self._read_ahead()

    async def take(self, count: int, held_out: frozenset[bytes]) -> list[Sample]:
        """The next samples whose digest is not held out, none at the end; raises SourceError.

        Fewer than `count` at the end, where their text is long, or before a shard that fails.
        """
        async with self._lock:
            taken: list[Sample] = []
            num_characters = 0
            while len(taken) < count and num_characters < MAX_REPLY_CHARACTERS:
                if self._index == len(self._samples):
                    if self._is_at_end():
                        break
                    await self._turn()
                    continue
                sample = self._samples[self._index]
                self._index += 1
                if not held_out or sample.digest not in held_out:
                    taken.append(sample)
                    self._num_taken += 1
                    num_characters += len(sample.text)
            return taken

    def _is_at_end(self) -> bool:
        """A pass that gave nothing is the last."""
        is_pass_over = self._next_shard > 0 and self._next_shard % self._corpus.num_shards == 0
        return self._next_shard == self._num_shards or (is_pass_over and not self._num_taken)

    async def _turn(self) -> None:
        """Goes on to the next shard."""
        self._read_ahead()
        task, self._ahead = self._ahead, None
        assert task is not None
        self._samples = await task
        self._index = 0
        self._next_shard += 1
        self._read_ahead()

    def _read_ahead(self) -> None:
        if self._ahead is None and self._next_shard < self._num_shards:
            number = self._next_shard % self._corpus.num_shards
            self._ahead = asyncio.create_task(self._corpus.samples(number))
            self._ahead.add_done_callback(_note)

    def close(self) -> None:
        """Gives up what is being read, and lets go of what has been."""
        if self._ahead is not None:
            self._ahead.cancel()
        self._samples, self._index, self._next_shard = [], 0, self._num_shards


def _note(task: asyncio.Task[list[Sample]]) -> None:
    """Keeps asyncio from complaining of a shard that failed before anybody came for it."""
    if not task.cancelled():
        task.exception()
