"""Text to evaluate on: read as the streamer reads it, and in tokens as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from babygpt_exp.errors import UserError
from babygpt_exp.tokenizer import TextTokenizer
from streamer.cache import default_cache_dir
from streamer.disk import CacheDisk
from streamer.errors import RequestError, SourceError
from streamer.sources.listing import Listing
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
from streamer.tokens import TextTokenizer as PlainTokenizer


class PlainText:
    """A tokenizer of text that is nothing but text: what spells a special token is not one."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.end_of_text = tokenizer.end_of_text
        self._tokenizer = PlainTokenizer(tokenizer.json)

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Tokens of each text; UserError where the tokenizer has none for it."""
        try:
            for _, encoded in self._tokenizer.encode(texts):
                yield from encoded
        except RequestError as error:
            raise UserError(str(error)) from error


def read_texts(addresses: Sequence[str], column: str) -> Iterator[list[str]]:
    """The documents of files, some at a time.

    A line of a .jsonl file and a row of a .parquet file is a document, and so is a whole .txt
    file: it is cut into documents for training only. Raises UserError.
    """
    shelf = Shelf(CacheDisk(default_cache_dir()))
    try:
        for address in addresses:
            yield from documents_of(shelf, shelf.list_source(SourceSpec(address, column=column)))
    except SourceError as error:
        raise UserError(str(error)) from error
    finally:
        shelf.close()


def documents_of(shelf: Shelf, listing: Listing) -> Iterator[list[str]]:
    """The documents of a source: those of a shard, or one text file, at a time."""
    text: list[str] = []
    for shard, following in zip(listing.shards, [*listing.shards[1:], None], strict=True):
        documents = shelf.read_shard(shard, listing.spec)
        if shard.file.format != "text":
            yield documents
            continue
        text += documents
        if following is None or following.file != shard.file:
            yield ["".join(text)]
            text = []
