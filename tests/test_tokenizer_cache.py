"""The cache of trained tokenizers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from babygpt_exp.tokenizer import BPEConfig, TextTokenizer, obtain_tokenizer
from babygpt_exp.tokenizer import cache as cache_module

TEXTS = ["a rose is a rose is a rose", "the cat sat on the mat", "a hat and a cat"]
CONFIG = BPEConfig("bpe", 280, 3, "words")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the entries are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "babygpt_exp" / "tokenizers"


def obtain(config: BPEConfig = CONFIG, texts: list[str] = TEXTS) -> TextTokenizer:
    return obtain_tokenizer(config, lambda count: texts[:count])


def test_second_time_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = obtain()
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr("babygpt_exp.tokenizer.train_bpe", None)
    second = obtain()
    assert (second.json, second.end_of_text) == (first.json, first.end_of_text)
    assert second.encode("the rose") == first.encode("the rose")


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        (BPEConfig("bpe", 281, 3, "words"), TEXTS),
        (BPEConfig("bpe", 280, 3, "none"), TEXTS),
        (CONFIG, ["a rose is a rose is a ros", "ethe cat sat on the mat", "a hat and a cat"]),
        (BPEConfig("bpe", 280, 2, "words"), TEXTS),
    ],
)
def test_everything_that_decides_it_is_in_the_key(
    folder: Path, config: BPEConfig, texts: list[str]
) -> None:
    obtain()
    obtain(config, texts)
    assert len(list(folder.iterdir())) == 2


def test_damaged_entry_is_made_again(folder: Path) -> None:
    first = obtain()
    (entry,) = folder.iterdir()
    entry.write_text(entry.read_text()[:1000])
    assert obtain().json == first.json
    assert entry.read_text() == first.json


def test_oldest_entries_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_ENTRIES", 2)
    for age, size in enumerate((262, 263)):
        obtain(BPEConfig("bpe", size, 3, "words"))
        for entry in folder.iterdir():
            os.utime(entry, (age, age))
    for size in (262, 264):  # the first is used again
        obtain(BPEConfig("bpe", size, 3, "words"))
    kept = [Tokenizer.from_file(str(entry)).get_vocab_size() for entry in folder.iterdir()]
    assert sorted(kept) == [262, 264]


def test_cache_that_can_not_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    assert obtain().vocab_size == 280
