"""`tokenizer=superbpe`: two stages, one ordinary file of the `tokenizers` library."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from babygpt_exp.tokenizer import (
    END_OF_TEXT,
    SuperBPEConfig,
    TextTokenizer,
    is_byte_level,
    obtain_tokenizer,
    train_bpe,
    train_superbpe,
)
from babygpt_exp.tokenizer.bpe import split_bytes
from babygpt_exp.tokenizer.superbpe import MAX_PARTS, SPLIT
from streamer import tokens as streamer_tokens

WORDS = ["by", "the", "way", "on", "other", "hand", "it's", "end", "of", "road", "a", "river"]
SENTENCES = [
    "by the way, the river ran over the hill in 1999",
    "on the other hand, it's the end of the road",
    "caf\u00e9 \u6c34\u6c34 \U0001f600 is what they said, all of them!\r\n",
    f"{END_OF_TEXT} is text like any other {END_OF_TEXT}",
]


def random_documents(seed: int) -> list[str]:
    source = random.Random(seed)
    phrases = [" ".join(source.choices(WORDS, k=4)) for _ in range(60)]
    return [" ".join(source.choices(SENTENCES + phrases, k=40)) for _ in range(20)]


DOCUMENTS = random_documents(1)
SIZE, SHARE = 400, 0.8
SUPER = train_superbpe(SIZE, DOCUMENTS, SHARE)
SIZES = SUPER.token_sizes("")
SERVED = streamer_tokens.TextTokenizer(SUPER.json)
PIECES = ["by the way", " the", "\r\n", "\n\n", "\0", "  ", "12", "\u00e9", "\u6c34", "\ufeff"]
TEXT = st.text() | st.lists(st.sampled_from([*PIECES, *SENTENCES])).map("".join)


def phrases_of(tokenizer: TextTokenizer, first: int = 0) -> dict[int, str]:
    """Tokens from `first` on with a space after their first character, as text."""
    names = ((n, tokenizer.inner.id_to_token(n) or "") for n in range(first, tokenizer.vocab_size))
    return {n: tokenizer.decode([n]) for n, name in names if "\u0120" in name[1:]}


def test_has_the_size_and_the_documents_asked_for() -> None:
    asked: list[int] = []

    def documents(count: int) -> list[str]:
        asked.append(count)
        return DOCUMENTS[:count]

    tokenizer = obtain_tokenizer(SuperBPEConfig("superbpe", SIZE, 15, SHARE), documents)
    assert asked == [15]
    assert tokenizer.vocab_size == SIZE
    assert tokenizer.inner.id_to_token(tokenizer.end_of_text) == END_OF_TEXT


def test_same_documents_same_file() -> None:
    assert train_superbpe(SIZE, list(DOCUMENTS), SHARE).json == SUPER.json
    assert train_superbpe(SIZE, DOCUMENTS[:5], SHARE).json != SUPER.json


def test_words_come_first_and_are_those_of_bpe() -> None:
    num_words = round(SIZE * SHARE)
    words = train_bpe(num_words, DOCUMENTS).inner
    for token in range(num_words):
        assert SUPER.inner.id_to_token(token) == words.id_to_token(token)
    phrases = phrases_of(SUPER)
    assert min(phrases) >= num_words
    assert len(phrases) > 40
    words.pre_tokenizer = split_bytes(SPLIT)
    words.encode_special_tokens = True
    parts = [len(words.encode(text, add_special_tokens=False).ids) for text in phrases.values()]
    assert 1 < max(parts) <= MAX_PARTS


def test_is_shorter_than_bpe() -> None:
    text, words = DOCUMENTS[3], train_bpe(SIZE, DOCUMENTS)
    assert len(SUPER.encode(text)) < 0.8 * len(words.encode(text))


def test_numbers_and_runs_of_signs_keep_their_borders() -> None:
    tokenizer = train_superbpe(330, ["in 1999 -- and in 1999 -- it was " * 30], 0.8)
    pieces = tokenizer.inner.pre_tokenizer.pre_tokenize_str("in 1999 -- it")  # type: ignore[union-attr]
    assert [piece.replace("\u0120", " ") for piece, _ in pieces] == [
        "in ", "19", "99", " --", " it",
    ]  # fmt: skip
    names = tokenizer.inner.get_vocab()
    assert not any("19" in name and len(name) > 2 for name in names)


def test_no_token_crosses_the_border_of_documents() -> None:
    tokenizer = train_superbpe(500, ["begin the day at the end"] * 50, 0.6)
    assert not any("endbegin" in name for name in tokenizer.inner.get_vocab())
    assert any("the end" in text for text in phrases_of(tokenizer).values())


@pytest.mark.parametrize("letters", ["ab' ", "a ", "aab\n,", '"a. '])
def test_no_name_is_made_twice(letters: str) -> None:
    source = random.Random(letters)
    documents = ["".join(source.choices(letters, k=400)) for _ in range(20)]
    tokenizer = train_superbpe(300, documents, 0.9)
    state = json.loads(tokenizer.json)["model"]
    assert sorted(state["vocab"].values()) == list(range(300))
    assert len(state["merges"]) == 300 - 257
    for token in range(257, 300):
        text = tokenizer.decode([token])
        if not text.endswith(" "):  # the spaces that end a text are a piece of their own
            assert tokenizer.encode(text) == [token]


def test_little_text_makes_a_small_vocabulary() -> None:
    assert train_superbpe(1000, ["ab cd"], 0.8).vocab_size < 270
    assert train_superbpe(1000, ["", " "], 0.8).vocab_size == 257
    assert train_superbpe(1000, [], 0.8).vocab_size == 257


@given(TEXT)
@example(f"a {END_OF_TEXT} b")
def test_no_text_is_lost_and_every_byte_counts_once(text: str) -> None:
    (found,) = list(SERVED.encode([text]))
    ((tokens,),) = [found[1]]
    assert SUPER.decode(tokens) == text
    assert sum(SIZES[token] for token in tokens) == len(text.encode())
    assert SUPER.end_of_text not in tokens


def test_is_byte_level() -> None:
    assert is_byte_level(SUPER.inner)
    assert SIZES[SUPER.end_of_text] == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_of_all_or_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="words_share"):
        SuperBPEConfig("superbpe", SIZE, 10, share)
