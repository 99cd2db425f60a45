"""Bits per byte: the number itself, and the bytes that it is measured against."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from babygpt_exp.evaluation import Evaluation
from babygpt_exp.tokenizer import END_OF_TEXT, TextTokenizer, is_byte_level, train_bpe

WORDS = "the river ran over the hill and the movie ran over the river, it's 1999! "
BPE = train_bpe(400, [WORDS * 5, "caf\u00e9 \u6c34\u6c34 \U0001f600\U0001f600", "a\r\nb\r\n" * 9])
BYTES = train_bpe(257, [])
PIECES = ["\r\n", "\n", "\0", " ", "the ", "'ll", "12", "\u00e9", "\u6c34", "\u0301", "\ufeff"]
PIECES += ["\U0001f600", "\U0001f469\u200d\U0001f4bb", "\u2028"]
TEXT = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)
"""Any text, and more often than by chance what is easily damaged."""


@pytest.fixture(scope="module")
def word_level() -> TextTokenizer:
    """A tokenizer whose tokens stand for no certain bytes."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.WordLevelTrainer(special_tokens=[END_OF_TEXT, "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([WORDS], trainer)
    return TextTokenizer(tokenizer, tokenizer.token_to_id(END_OF_TEXT))


def test_bits_per_byte_of_a_known_model() -> None:
    # A fair coin a byte: ln 2 nats each is one bit each.
    assert Evaluation(nats=math.log(2) * 80, num_targets=20, text_bytes=80).bits_per_byte == 1
    # A guess among 256 bytes is 8 bits a byte.
    result = Evaluation(nats=10 * math.log(256), num_targets=10, text_bytes=10)
    assert result.bits_per_byte == pytest.approx(8)
    assert result.loss == pytest.approx(math.log(256))


def test_bits_per_byte_does_not_depend_on_the_tokenizer() -> None:
    fine = Evaluation(nats=100, num_targets=50, text_bytes=60)
    coarse = Evaluation(nats=100, num_targets=10, text_bytes=60)
    assert fine.bits_per_byte == coarse.bits_per_byte
    assert fine.loss < coarse.loss


def sizes_of(tokenizer: TextTokenizer) -> list[float]:
    sizes = tokenizer.token_sizes("sample")
    assert len(sizes) == tokenizer.vocab_size
    return sizes


SIZES = {id(tokenizer): sizes_of(tokenizer) for tokenizer in (BPE, BYTES)}


@pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])
@given(text=TEXT)
def test_tokens_add_up_to_the_bytes_of_the_text(tokenizer: TextTokenizer, text: str) -> None:
    sizes = SIZES[id(tokenizer)]
    assert sum(sizes[token] for token in tokenizer.encode(text)) == len(text.encode())


@pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])
@given(text=TEXT)
def test_decode_gives_the_text_back(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "a\r\nb\r\n\r\n  c\n",
        " \t ",
        "\U0001f600\U0001f469\u200d\U0001f4bb",
        "caf\u00e9 cafe\u0301",
        "\ufeffmark",
        "\u6c34" * 40,
        "x" * 3000,
    ],
    ids=ascii,
)
def test_texts_that_are_easily_damaged(tokenizer: TextTokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert sum(SIZES[id(tokenizer)][token] for token in tokens) == len(text.encode())


def test_bytes_are_bytes() -> None:
    text = "caf\u00e9\r\n"
    assert len(BYTES.encode(text)) == len(text.encode())


def test_end_of_text_counts_nothing() -> None:
    for tokenizer in (BPE, BYTES):
        assert SIZES[id(tokenizer)][tokenizer.end_of_text] == 0


def test_all_other_tokens_count(word_level: TextTokenizer) -> None:
    for tokenizer in (BPE, BYTES, word_level):
        sizes = tokenizer.token_sizes(WORDS)
        special = tokenizer.inner.get_added_tokens_decoder()
        assert all(size > 0 for i, size in enumerate(sizes) if i not in special)


def test_other_tokenizers_count_the_mean(word_level: TextTokenizer) -> None:
    assert not is_byte_level(word_level.inner)
    sizes = word_level.token_sizes(WORDS)
    tokens = word_level.encode(WORDS)
    assert sum(sizes[token] for token in tokens) == pytest.approx(len(WORDS.encode()))
    assert sizes[word_level.end_of_text] == 0


def test_added_tokens_count_what_decode_gives() -> None:
    inner = Tokenizer.from_str(BPE.json)
    names = ["\u6c34", "<tool>", "a b"]
    inner.add_tokens(names)
    tokenizer = TextTokenizer(inner, BPE.end_of_text)
    sizes = tokenizer.token_sizes("")
    for name, token in zip(names, map(inner.token_to_id, names), strict=True):
        assert tokenizer.decode([token]) == name
        assert sizes[token] == len(name.encode())


def test_byte_level_is_told_apart() -> None:
    assert is_byte_level(BPE.inner)
    assert is_byte_level(BYTES.inner)
    lowered = Tokenizer.from_str(BPE.json)
    lowered.normalizer = normalizers.Lowercase()
    assert not is_byte_level(lowered)
    other = Tokenizer.from_str(BPE.json)
    other.decoder = decoders.Metaspace()
    assert not is_byte_level(other)
