"""The plan: everything that decides which tokens come in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from streamer.cursor import MAX_COUNT
from streamer.errors import RequestError
from streamer.fields import Fields, bad_field
from streamer.sources.listing import Listing
from streamer.sources.spec import ON_BAD_DOCUMENT
from streamer.split import MAX_SALT_BYTES
from streamer.tokens import TokenSpec

VERSION = 2
MAX_SEQUENCE_TOKENS = 1 << 20
MAX_SHUFFLE_SHARDS = 1024
MAX_VOCAB_SIZE = 1 << 31


@dataclass(frozen=True)
class Plan:
    """A plan that this server has agreed to."""

    payload: dict[str, Any]
    """The full JSON object, for the client to keep in its checkpoints."""
    sequence_tokens: int
    """Inputs of a block, T; a block has T + 1 tokens."""
    shuffle_shards: int
    """Shards whose blocks are mixed with each other, 1 where nothing is shuffled."""
    seed: int | None
    """Seed of the order, None for the natural one."""
    train_spec: TokenSpec
    """What decides the tokens of the training split."""

    @property
    def plan_id(self) -> str:
        """BLAKE2b-128 of the canonical JSON without the sources' names, which are for people."""
        return plan_id(self.payload)

    @property
    def dtype(self) -> str:
        """<u2, or <u4 above 65,536 vocabulary entries."""
        return self.train_spec.dtype


def plan_id(payload: dict[str, Any]) -> str:
    """The hash that names a plan, 32 hexadecimal digits."""
    sources = [{k: v for k, v in source.items() if k != "name"} for source in payload["sources"]]
    text = json.dumps(payload | {"sources": sources}, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def source_payload(listing: Listing) -> dict[str, object]:
    """What a plan says of a source; `prompt` only where there is one."""
    spec = listing.spec
    payload: dict[str, object] = {
        "name": listing.name,
        "weight": spec.weight,
        "column": spec.column,
        "on_bad_document": spec.on_bad_document,
        "fingerprint": listing.fingerprint,
    }
    return payload if spec.prompt is None else payload | {"prompt": list(spec.prompt)}


def tokenizer_hash(plan: object) -> str:
    """The tokenizer that a plan asks for; raises RequestError."""
    return Fields(Fields(plan, "plan").take("tokenizer"), "plan.tokenizer").hexadecimal("hash", 64)


def agree(proposed: object, listings: Sequence[Listing], vocab_size: int) -> Plan:
    """The full plan for a proposed one with or without `sources`.

    `vocab_size` is the tokenizer's. Raises RequestError: bad_request for a field that no plan may
    have, plan_mismatch with the dotted name of the field in which this server differs.
    """
    fields = Fields(proposed, "plan")
    version = fields.integer("version", 0, MAX_COUNT) if fields.has("version") else VERSION
    if version != VERSION:
        raise mismatch("version", version, VERSION)
    fields.discard("version")  # null is as left out
    sources = _agree_sources(fields, listings)
    tokenizer = _agree_tokenizer(fields.mapping("tokenizer"), vocab_size)
    sequence_tokens = fields.integer("sequence_length", 1, MAX_SEQUENCE_TOKENS)
    validation = _validation(fields.mapping("validation"))
    shuffle = _shuffle(fields)
    fields.done()
    payload = {
        "version": VERSION,
        "sources": sources,
        "tokenizer": tokenizer,
        "sequence_length": sequence_tokens,
        "validation": validation,
        "shuffle": shuffle,
    }
    spec = TokenSpec(
        tokenizer_hash=tokenizer["hash"],
        eot_id=tokenizer["eot_id"],
        dtype="<u2" if tokenizer["vocab_size"] <= 1 << 16 else "<u4",
        fraction=validation["fraction"],
        salt=validation["salt"],
        split="train",
    )
    shards, seed = (shuffle["shards"], shuffle["seed"]) if shuffle else (1, None)
    return Plan(payload, sequence_tokens, shards, seed, spec)


def mismatch(field: str, theirs: object, ours: object) -> RequestError:
    """The error for a plan that was made elsewhere, or of other data."""
    return RequestError(
        "plan_mismatch", field, f"the plan's {field} is {theirs}, this server's is {ours}"
    )


def _agree_sources(fields: Fields, listings: Sequence[Listing]) -> list[dict[str, object]]:
    ours = [source_payload(listing) for listing in listings]
    if not fields.has("sources"):
        fields.discard("sources")
        return ours
    theirs = fields.sequence("sources")
    if len(theirs) != len(ours):
        raise mismatch("sources", f"a list of {len(theirs)}", f"a list of {len(ours)}")
    for index, (item, own) in enumerate(zip(theirs, ours, strict=True)):
        source = Fields(item, f"plan.sources.{index}")
        if source.has("name"):
            source.string("name", 4096)
        found = {
            "weight": source.number("weight", 0.0, 1e9),
            "column": source.string("column", 4096),
            "on_bad_document": source.choice("on_bad_document", ON_BAD_DOCUMENT),
            "fingerprint": source.hexadecimal("fingerprint", 64),
        }
        found["prompt"] = source.sequence("prompt") if source.has("prompt") else None
        source.discard("prompt")
        source.done()
        for key, value in found.items():
            if value != own.get(key):
                raise mismatch(f"sources.{index}.{key}", value, own.get(key))
    return ours


def _agree_tokenizer(fields: Fields, least: int) -> dict[str, Any]:
    digest = fields.hexadecimal("hash", 64)
    size = fields.integer("vocab_size", 1, MAX_VOCAB_SIZE) if fields.has("vocab_size") else least
    fields.discard("vocab_size")
    if size < least:
        raise mismatch("tokenizer.vocab_size", size, f"at least {least}")
    eot_id = fields.integer("eot_id", 0, size - 1)
    fields.done()
    return {"hash": digest, "eot_id": eot_id, "vocab_size": size}


def _validation(fields: Fields) -> dict[str, Any]:
    fraction = fields.number("fraction", 0.0, 1.0)
    salt = fields.string("salt", MAX_SALT_BYTES)
    fields.done()
    return {"fraction": fraction, "salt": salt}


def _shuffle(fields: Fields) -> dict[str, int] | None:
    if fields.has("shuffle"):
        shuffle = fields.mapping("shuffle")
        shards = shuffle.integer("shards", 1, MAX_SHUFFLE_SHARDS)
        seed = shuffle.integer("seed", 0, MAX_COUNT)
        shuffle.done()
        return {"shards": shards, "seed": seed}
    if fields.take("shuffle") is not None:
        raise bad_field("plan.shuffle", "must be null or an object")
    return None
