"""Where text becomes tokens: one shard's documents of one split as one array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from streamer.errors import RequestError, one_line

ENCODE_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once: enough for all cores, and well below a second."""

TokenArray = NDArray[np.unsignedinteger]
"""Shape (num_tokens,), little-endian uint16 or uint32."""


class StoppingError(Exception):
    """The server is stopping; what was being prepared is given up."""


@dataclass(frozen=True)
class TokenSpec:
    """All that decides the tokens of a shard, apart from the shard."""

    tokenizer_hash: str
    """SHA-256 of the tokenizer's JSON."""
    eot_id: int
    """Token that begins a shard and ends each document."""
    dtype: str
    """<u2 or <u4."""
    fraction: float
    """Share of documents that are validation text."""
    salt: str
    """Key of the hash that splits."""
    split: str
    """train or validation."""


@dataclass(frozen=True)
class ShardTokens:
    """The tokens of one shard and split."""

    tokens: TokenArray
    """End-of-text, then each text's tokens followed by end-of-text."""
    num_documents: int
    """Texts of the split in this shard: documents, or of instructions prompts and responses."""
    num_bytes: int
    """Their UTF-8 bytes."""


class TextTokenizer:
    """A `tokenizers` JSON that turns text into tokens, and never text into a special token."""

    def __init__(self, tokenizer_json: str) -> None:
        self.hash = hashlib.sha256(tokenizer_json.encode()).hexdigest()
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_str(_all_special(tokenizer_json))
        except Exception as error:  # the library raises nothing more precise
            raise RequestError(
                "bad_tokenizer", "json", f"not a tokenizers JSON: {one_line(str(error))}"
            ) from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def encode(self, documents: Sequence[str]) -> Iterator[tuple[int, list[list[int]]]]:
        """Some documents at a time: how many characters they have, and the token ids of each.

        Raises RequestError for text that the tokenizer has no tokens for.
        """
        batch: list[str] = []
        num_characters = 0
        for position, document in enumerate(documents):
            batch.append(document)
            num_characters += len(document)
            if num_characters >= ENCODE_CHARACTERS or position + 1 == len(documents):
                yield num_characters, self._encode_batch(batch)
                batch, num_characters = [], 0

    def _encode_batch(self, documents: list[str]) -> list[list[int]]:
        try:
            found = self._tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        except Exception as error:  # the library raises nothing more precise
            raise RequestError(
                "bad_tokenizer", "plan.tokenizer.hash", f"cannot encode: {one_line(str(error))}"
            ) from error
        return [encoding.ids for encoding in found]


def _all_special(tokenizer_json: str) -> str:
    """The JSON with every added token marked special.

    `encode_special_tokens` keeps only special tokens out of ordinary text, and a corpus may well
    contain the spelling of one that was added without the mark.
    """
    value = json.loads(tokenizer_json)
    for token in value.get("added_tokens") or []:
        token["special"] = True
    return json.dumps(value)


def tokenize(
    texts: Sequence[str],
    num_bytes: int,
    tokenizer: TextTokenizer,
    spec: TokenSpec,
    report: Callable[[int], None],
) -> ShardTokens:
    """The tokens of one split's texts of a shard; empty where it has none.

    `report` is told how many characters were done, and may raise StoppingError.
    """
    dtype = np.dtype(spec.dtype)
    eot = np.array([spec.eot_id], dtype)
    parts = [eot] if texts else []
    for num_characters, encoded in tokenizer.encode(texts):
        for ids in encoded:
            parts += (np.array(ids, dtype), eot)
        report(num_characters)
    tokens = np.concatenate(parts) if parts else np.empty(0, dtype)
    return ShardTokens(tokens, len(texts), num_bytes)
