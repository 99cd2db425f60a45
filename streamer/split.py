"""Which split a document belongs to: decided by its own bytes, before anything else."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

SPLITS = ("train", "validation")
MAX_SALT_BYTES = 64


def is_validation(document: bytes, fraction: float, salt: str) -> bool:
    """Whether a document (UTF-8 bytes) is validation text.

    Its BLAKE2b hash of 8 bytes, keyed with the salt's UTF-8 bytes (at most 64), read as a
    little-endian number and divided by 2**64, is smaller than `fraction`. The same text is
    therefore always in the same split, wherever it stands.
    """
    digest = blake2b(document, digest_size=8, key=salt.encode()).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def split_documents(
    texts: Sequence[str], split: str, fraction: float, salt: str, num_parts: int = 1
) -> tuple[list[str], int]:
    """The documents of one split in their order, and how many UTF-8 bytes they have.

    Of `texts` each `num_parts` are one document, and stay together.
    """
    wanted = split == "validation"
    kept: list[str] = []
    num_bytes = 0
    for start in range(0, len(texts), num_parts):
        parts = texts[start : start + num_parts]
        encoded = "".join(parts).encode()
        if is_validation(encoded, fraction, salt) == wanted:
            kept += parts
            num_bytes += len(encoded)
    return kept, num_bytes
