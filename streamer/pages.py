"""Pages of raw documents: the `text` operation, for training a tokenizer."""

from __future__ import annotations

import json
from typing import Any

from streamer.cursor import MAX_COUNT
from streamer.errors import RequestError
from streamer.fields import Fields, bad_field
from streamer.library import Library
from streamer.plan import mismatch
from streamer.protocol import MAX_FRAME_BYTES, MAX_TEXT_BYTES, MAX_TEXT_DOCUMENTS
from streamer.split import MAX_SALT_BYTES, SPLITS, split_documents


async def read_page(library: Library, fields: Fields) -> dict[str, Any]:
    """The next documents of a source's split in natural order, at most so many and so many bytes.

    A page holds at least one document unless the corpus ends, and ends with its shard. `next` is
    the cursor of the next page, null at the end of the corpus. Raises RequestError.
    """
    split = fields.choice("split", SPLITS)
    fraction = fields.number("fraction", 0.0, 1.0)
    salt = fields.string("salt", MAX_SALT_BYTES)
    max_documents = fields.integer("max_documents", 1, MAX_TEXT_DOCUMENTS)
    max_bytes = fields.integer("max_bytes", 1, MAX_TEXT_BYTES)
    source = fields.integer("source", 0, MAX_COUNT) if fields.has("source") else 0
    cursor = fields.mapping("cursor") if fields.has("cursor") else None
    fields.discard("cursor")
    fields.discard("source")
    fields.done()
    if source >= len(library.sources):
        raise bad_field("source", f"must be below {len(library.sources)}, the number of sources")
    listing = (await library.listings())[source]
    field = f"sources.{source}.fingerprint"
    shard, document = _parse(cursor, field, listing.fingerprint) if cursor else (0, 0)
    while shard < len(listing.shards):
        documents = await library.documents(listing, shard)

        def cut(documents: list[str] = documents, document: int = document) -> list[str]:
            kept, _ = split_documents(documents, split, fraction, salt)
            return _fill(kept[document:], max_documents, max_bytes)

        page = await library.quickly(cut)
        if page:
            following = {"shard": shard, "document": document + len(page)}
            return {"documents": page, "next": following | {"fingerprint": listing.fingerprint}}
        shard, document = shard + 1, 0
    return {"documents": [], "next": None}


def _parse(cursor: Fields, field: str, fingerprint: str) -> tuple[int, int]:
    shard = cursor.integer("shard", 0, MAX_COUNT)
    document = cursor.integer("document", 0, MAX_COUNT)
    theirs = cursor.hexadecimal("fingerprint", 64)
    cursor.done()
    if theirs != fingerprint:
        raise mismatch(field, theirs, fingerprint)
    return shard, document


def _fill(documents: list[str], max_documents: int, max_bytes: int) -> list[str]:
    """As many of the first documents as fit, but at least one."""
    page: list[str] = []
    num_bytes = 0
    for document in documents[:max_documents]:
        size = len(json.dumps(document, ensure_ascii=False).encode()) + 2
        if size > MAX_FRAME_BYTES - MAX_TEXT_BYTES:
            raise RequestError("limit", "max_bytes", f"a document of {size} bytes is too large")
        num_bytes += size
        if page and num_bytes > max_bytes:
            break
        page.append(document)
    return page
