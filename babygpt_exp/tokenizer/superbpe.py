"""SuperBPE: byte-pair encoding that learns words first, then merges that may cross spaces.

After https://arxiv.org/abs/2503.13423. The library's trainer can not go on from merges. So the
tokens of the first stage become characters, one each, and the second stage is a BPE over those,
whose merges are spelt in the tokens' names again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from babygpt_exp.tokenizer.bpe import split_bytes, train_bpe
from babygpt_exp.tokenizer.text import END_OF_TEXT, TextTokenizer

SPLIT = r"\p{N}{1,2}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)"
"""Borders that no phrase crosses: numbers of two digits, runs of two or more signs, the spaces
before the last one of a run. It is the authors' pattern with shorter numbers."""

MAX_PARTS = 4
"""Tokens of the first stage in a phrase, the paper's number of words: no token is a whole heading
or formula, learned by heart."""

FIRST_CHARACTER = 0x10000
"""Character of token 0; behind it there is room for a million, and no surrogate."""

BORDER = "\n"
"""Stands between pieces of text for the second stage."""

BATCH_DOCUMENTS = 16
"""Documents encoded at once: enough for some cores, little memory."""


def train_superbpe(vocab_size: int, documents: list[str], words_share: float) -> TextTokenizer:
    """A byte-level BPE of `vocab_size` tokens, the last of which may be phrases."""
    words = train_bpe(max(257, round(vocab_size * words_share)), documents).inner
    words.pre_tokenizer = split_bytes(SPLIT)
    words.encode_special_tokens = True  # the name of a special token is text like any other
    vocab = words.get_vocab()
    phrases = phrase_merges(words, sorted(vocab, key=vocab.__getitem__), documents, vocab_size)
    # No name is made twice: text that begins and ends where tokens do is merged alike everywhere.
    for left, right in phrases:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges_of(words) + phrases))
    tokenizer.pre_tokenizer = split_bytes(SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return TextTokenizer(tokenizer, vocab[END_OF_TEXT])


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges of a BPE in their order, as pairs of names."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def phrase_merges(
    words: Tokenizer, names: list[str], documents: list[str], vocab_size: int
) -> list[tuple[str, str]]:
    """Merges of the second stage in their order, until the tokens are `vocab_size`.

    `names` are those of the first stage's tokens, in the order of their numbers.
    """
    alphabet = [chr(FIRST_CHARACTER + token) for token in range(len(names))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(BORDER, behavior="removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        max_token_length=MAX_PARTS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(as_characters(words, documents), trainer)
    spelling = dict(zip(map(ord, alphabet), names, strict=True))
    return [(a.translate(spelling), b.translate(spelling)) for a, b in merges_of(tokenizer)]


def as_characters(words: Tokenizer, documents: list[str]) -> Iterator[str]:
    """Each document with a character for every token, and BORDER where no merge may cross."""
    for start in range(0, len(documents), BATCH_DOCUMENTS):
        batch = documents[start : start + BATCH_DOCUMENTS]
        for encoding in words.encode_batch(batch, add_special_tokens=False):
            characters = np.array(encoding.ids, dtype="<u4") + np.uint32(FIRST_CHARACTER)
            borders = np.flatnonzero(np.diff(np.array(encoding.word_ids, dtype=np.int64))) + 1
            yield np.insert(characters, borders, ord(BORDER)).tobytes().decode("utf-32-le")
