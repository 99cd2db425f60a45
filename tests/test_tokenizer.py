"""Group `tokenizer`: how each option is obtained, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from babygpt_exp.errors import ConfigError
from babygpt_exp.tokenizer import (
    END_OF_TEXT,
    BPEConfig,
    FileConfig,
    TokenizerConfig,
    obtain_tokenizer,
    read_tokenizer,
    train_bpe,
)
from babygpt_exp.tokenizer.bpe import chunks

DOCUMENTS = [f"Document {i}: the river ran over hill {i * i}.\r\n" * 3 for i in range(50)]

WHOLE = train_bpe(400, DOCUMENTS, "none")
WHOLE_SIZES = WHOLE.token_sizes("")


def no_documents(count: int) -> list[str]:
    raise AssertionError("this tokenizer needs no documents")


class TestBPE:
    """`tokenizer=bpe`."""

    def test_has_the_size_and_the_documents_asked_for(self) -> None:
        asked: list[int] = []

        def documents(count: int) -> list[str]:
            asked.append(count)
            return DOCUMENTS[:count]

        tokenizer = obtain_tokenizer(BPEConfig("bpe", 300, 20, "words"), documents)
        assert asked == [20]
        assert tokenizer.vocab_size == 300
        assert tokenizer.inner.id_to_token(tokenizer.end_of_text) == END_OF_TEXT

    def test_same_documents_same_file(self) -> None:
        assert train_bpe(320, DOCUMENTS).json == train_bpe(320, list(DOCUMENTS)).json

    def test_other_documents_other_file(self) -> None:
        assert train_bpe(320, DOCUMENTS).json != train_bpe(320, DOCUMENTS[:10]).json

    def test_is_shorter_than_bytes(self) -> None:
        text = DOCUMENTS[3]
        assert len(train_bpe(400, DOCUMENTS).encode(text)) < len(text.encode()) / 2

    def test_every_byte_is_a_token(self) -> None:
        tokenizer = train_bpe(300, DOCUMENTS)
        for text in ("\u00ff", "\0", "\U0010ffff"):
            assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_adds_no_token_that_is_not_in_the_text(self) -> None:
        tokenizer = train_bpe(300, DOCUMENTS)
        assert tokenizer.encode("") == []
        assert tokenizer.end_of_text not in tokenizer.encode("plain text")

    def test_numbers_are_split_in_pairs(self) -> None:
        tokenizer = train_bpe(300, ["123456 " * 100])
        pieces = tokenizer.inner.pre_tokenizer.pre_tokenize_str("123456")  # type: ignore[union-attr]
        assert [piece for piece, _ in pieces] == ["12", "34", "56"]

    def test_decode_leaves_special_tokens_out(self) -> None:
        tokenizer = train_bpe(300, DOCUMENTS)
        tokens = [tokenizer.end_of_text, *tokenizer.encode("river"), tokenizer.end_of_text]
        assert tokenizer.decode(tokens) == "river"


class TestNoSplit:
    """`tokenizer=bpe tokenizer.split=none`."""

    def test_tokens_cross_every_border(self) -> None:
        tokenizer = obtain_tokenizer(BPEConfig("bpe", 400, 50, "none"), lambda count: DOCUMENTS)
        texts = [tokenizer.decode([token]) for token in range(257, tokenizer.vocab_size)]
        assert any("ran over" in text for text in texts)
        assert any(".\r\nDocument" in text for text in texts)
        assert len(tokenizer.encode(DOCUMENTS[3])) < len(
            train_bpe(400, DOCUMENTS).encode(DOCUMENTS[3])
        )

    def test_same_documents_same_file(self) -> None:
        found = [train_bpe(320, documents, "none").json for documents in (DOCUMENTS, DOCUMENTS[:])]
        assert found[0] == found[1]

    @given(st.text() | st.lists(st.sampled_from([*DOCUMENTS, "\r\n", " ", "\0"])).map("".join))
    def test_no_text_is_lost_and_every_byte_counts_once(self, text: str) -> None:
        tokens = WHOLE.encode(text)
        assert WHOLE.decode(tokens) == text
        assert sum(WHOLE_SIZES[token] for token in tokens) == len(text.encode())

    @given(st.text(" \nab\u3000", max_size=5000))
    def test_it_is_trained_on_all_text_in_pieces(self, text: str) -> None:
        pieces = list(chunks([text]))
        assert "".join(pieces) == (text if text.strip() else "")
        assert all(1 <= len(piece.split()) <= 512 for piece in pieces)


class TestBytes:
    """`tokenizer=bytes`."""

    def test_needs_no_documents(self) -> None:
        tokenizer = obtain_tokenizer(TokenizerConfig("bytes"), no_documents)
        assert tokenizer.vocab_size == 257
        assert len(tokenizer.encode("abc\u00e9")) == 5


class TestFile:
    """`tokenizer=file`."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tokenizer.json"
        path.write_text(train_bpe(300, DOCUMENTS).json)
        return path

    def test_is_read(self, path: Path) -> None:
        tokenizer = obtain_tokenizer(FileConfig("file", str(path), END_OF_TEXT), no_documents)
        assert tokenizer.json == path.read_text()
        assert tokenizer.vocab_size == 300

    def test_padding_and_truncation_are_off(self, path: Path) -> None:
        inner = Tokenizer.from_file(str(path))
        inner.enable_truncation(3)
        inner.enable_padding(length=50)
        inner.save(str(path))
        tokenizer = read_tokenizer(path, END_OF_TEXT)
        assert tokenizer.decode(tokenizer.encode(DOCUMENTS[0])) == DOCUMENTS[0]

    @pytest.mark.parametrize(
        "content", ["", "no json", "[]", '{"version": "1.0"}', '{"a": [1, 2]}', "\0\0"], ids=ascii
    )
    def test_refuses_what_is_none(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "notes.json"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_tokenizer(path, END_OF_TEXT)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_refuses_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(bytes(range(128, 256)))
        with pytest.raises(ConfigError, match=r"model\.bin"):
            read_tokenizer(path, END_OF_TEXT)

    def test_refuses_a_file_without_the_end_of_text(self, path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read_tokenizer(path, "</s>")
        assert "</s>" in str(caught.value)
        assert END_OF_TEXT in str(caught.value)  # what it has instead
        assert "\n" not in str(caught.value)

    def test_says_so_if_there_are_no_special_tokens(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer(models.WordLevel(unk_token="a"))
        tokenizer.train_from_iterator(["a b"], trainers.WordLevelTrainer(show_progress=False))
        path = tmp_path / "words.json"
        tokenizer.save(str(path))
        with pytest.raises(ConfigError, match="its special tokens: none"):
            read_tokenizer(path, END_OF_TEXT)

    def test_refuses_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is no file"):
            read_tokenizer(tmp_path / "nowhere.json", END_OF_TEXT)
