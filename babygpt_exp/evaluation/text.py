"""Text to evaluate on, read as the streamer reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from babygpt_exp.errors import UserError
from streamer.cache import default_cache_dir
from streamer.disk import CacheDisk
from streamer.errors import SourceError
from streamer.sources.listing import Listing
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec


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
    for shard, following in pairwise((*listing.shards, None)):
        assert shard is not None
        documents = shelf.read_shard(shard, listing.spec)
        if shard.file.format != "text":
            yield documents
            continue
        text += documents
        if following is None or following.file != shard.file:
            yield ["".join(text)]
            text = []
