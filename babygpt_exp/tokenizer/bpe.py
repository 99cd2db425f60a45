"""Byte-pair encoding over bytes, inside words or without borders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import PreTokenizer

from babygpt_exp.tokenizer.text import END_OF_TEXT, TextTokenizer

SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""Words with their space, numbers of two digits, runs of signs, white space: the pattern of
GPT-4 in its form for small vocabularies (https://github.com/karpathy/nanochat)."""

CHUNK = re.compile(r"\s*(?:\S+\s*){1,512}")
"""What a BPE without borders is trained on: 512 words, as EIR's text server hands them out, but
with the white space between them."""


def train_bpe(
    vocab_size: int, documents: list[str], split: Literal["words", "none"] = "words"
) -> TextTokenizer:
    """A byte-level BPE of `vocab_size` tokens; the 256 bytes alone if 257."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_bytes(SPLIT if split == "words" else None)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = iter(documents) if split == "words" else chunks(documents)
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer, tokenizer.get_vocab()[END_OF_TEXT])


def split_bytes(pattern: str | None) -> PreTokenizer:
    """Text to pieces by a pattern (one piece without any), and the pieces to bytes."""
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pattern is None:
        return to_bytes
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), to_bytes]
    )


def chunks(documents: list[str]) -> Iterator[str]:
    """The documents in pieces of 512 words, since every merge walks through all pieces that
    have its pair."""
    for document in documents:
        yield from CHUNK.findall(document)
