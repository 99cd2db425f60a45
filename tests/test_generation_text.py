"""Tokens into text as they come, and the strings that end it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from babygpt_exp.generation.text import StopStrings, TextStream
from babygpt_exp.tokenizer import TextTokenizer, train_bpe

TEXTS = ["na\u00efve caf\u00e9 \u4f60\u597d \U0001f600 and some words more " * 5]
BYTES = train_bpe(300, TEXTS)
SMALL_TEXT = st.text(alphabet="ab\u00e9", max_size=12)


@pytest.fixture(scope="module")
def words() -> TextTokenizer:
    """A tokenizer whose tokens stand for no certain bytes: a space or none, by the place."""
    vocabulary = {"\u2581hello": 0, "\u2581world": 1, "s": 2, "<end>": 3}
    vocabulary |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    inner.add_special_tokens(["<end>"])
    return TextTokenizer(inner, 3)


def pieces(tokenizer: TextTokenizer, tokens: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.add(token) for token in tokens), stream.end()]


class TestTextStream:
    """Whole characters, and in the end everything."""

    @given(st.text(max_size=20))
    @settings(max_examples=50)
    def test_gives_the_text(self, text: str) -> None:
        assert "".join(pieces(BYTES, BYTES.encode(text))) == text

    @given(st.lists(st.integers(0, BYTES.vocab_size - 1), max_size=20))
    @settings(max_examples=50)
    def test_gives_what_decode_gives_whatever_the_bytes_are(self, tokens: list[int]) -> None:
        assert "".join(pieces(BYTES, tokens)) == BYTES.decode(tokens)

    def test_never_gives_half_a_character(self) -> None:
        tokenizer = train_bpe(257, [])  # a byte a token
        found = pieces(tokenizer, tokenizer.encode("a\U0001f600b"))
        assert found == ["a", "", "", "", "\U0001f600", "b", ""]

    def test_half_a_character_at_the_end_is_shown_as_unknown(self) -> None:
        tokenizer = train_bpe(257, [])
        assert pieces(tokenizer, tokenizer.encode("\u00e9")[:1]) == [
            "",
            "\N{REPLACEMENT CHARACTER}",
        ]

    def test_special_tokens_have_no_text(self) -> None:
        assert pieces(BYTES, [BYTES.end_of_text]) == ["", ""]

    def test_tokenizers_whose_tokens_are_no_bytes(self, words: TextTokenizer) -> None:
        assert pieces(words, [0, 1, 2, 3, 1]) == ["hello", " world", "s", "", " world", ""]

    def test_bytes_of_such_a_tokenizer(self, words: TextTokenizer) -> None:
        tokens = [0, *(4 + byte for byte in "\u00e9".encode()), 1]
        assert "".join(pieces(words, tokens)) == words.decode(tokens)
        assert pieces(words, tokens)[1:3] == ["", "\u00e9"]


class TestStopStrings:
    """Text is let through up to the first of them."""

    @pytest.mark.parametrize(
        ("strings", "given_pieces", "shown"),
        [
            (("END",), ["one ", "END two"], (["one ", ""], True)),
            (("END",), ["one E", "N", "D"], (["one ", "", ""], True)),
            (("END",), ["E", "N", "O"], (["", "", "ENO"], False)),
            (("END",), ["EE", "ND"], (["E", ""], True)),
            (("\n\n",), ["a\n", "b\n", "\nc"], (["a", "\nb", ""], True)),
            (("b", "ab"), ["a", "b"], (["", ""], True)),
            (("b", "abc"), ["xab"], (["xa"], True)),
            ((), ["anything"], (["anything"], False)),
        ],
    )
    def test_by_table(
        self, strings: tuple[str, ...], given_pieces: list[str], shown: tuple[list[str], bool]
    ) -> None:
        stops, found, is_stopped = StopStrings(strings), [], False
        for piece in given_pieces:
            text, is_stopped = stops.add(piece)
            found.append(text)
        assert (found, is_stopped) == shown

    @given(st.lists(SMALL_TEXT, max_size=6), st.lists(SMALL_TEXT.filter(bool), max_size=3))
    @settings(max_examples=100)
    def test_shows_what_is_before_the_first_and_nothing_else(
        self, given_pieces: list[str], strings: list[str]
    ) -> None:
        stops, shown, is_stopped = StopStrings(tuple(strings)), "", False
        for piece in given_pieces:
            text, is_stopped = stops.add(piece)
            shown += text
            if is_stopped:
                break
        whole = "".join(given_pieces)
        if is_stopped:
            assert any(whole[len(shown) :].startswith(string) for string in strings)
            assert not any(string in shown for string in strings)
        else:
            assert not any(string in whole for string in strings)
            assert shown + stops.end() == whole
