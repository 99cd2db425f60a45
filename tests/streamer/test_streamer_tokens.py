"""Tokens and their cache."""

from __future__ import annotations

import itertools
import json
import logging
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from streamer.cache import TokenCache, default_cache_dir
from streamer.errors import RequestError
from streamer.tokens import ShardTokens, TextTokenizer, TokenSpec, tokenize

SPEC = TokenSpec("0" * 64, 0, "<u2", 0.1, "salt", "train")
MADE = ShardTokens(np.arange(1000, dtype="<u2"), 7, 4000)
EOT = "<|endoftext|>"


def test_documents_come_back_exactly(tokenizer_json: str, documents: list[str]) -> None:
    plain = Tokenizer.from_str(tokenizer_json)
    eot_id = plain.token_to_id(EOT)
    assert eot_id is not None
    tokenizer = TextTokenizer(tokenizer_json)
    made = tokenize(documents, 5, tokenizer, replace(SPEC, eot_id=eot_id), lambda _: None)
    ends = np.flatnonzero(made.tokens == eot_id)
    assert len(ends) == len(documents) + 1
    assert ends[0] == 0
    found = [
        plain.decode(made.tokens[a + 1 : b].tolist(), skip_special_tokens=False)
        for a, b in itertools.pairwise(ends)
    ]
    assert found == documents


@pytest.mark.parametrize("special", [True, False])
def test_text_never_becomes_the_special_token(tokenizer_json: str, special: bool) -> None:
    value = json.loads(tokenizer_json)
    value["added_tokens"][0]["special"] = special
    tokenizer = TextTokenizer(json.dumps(value))
    made = tokenize([f"a{EOT}b"], 9, tokenizer, SPEC, lambda _: None)
    assert (made.tokens == 0).sum() == 2


def test_no_documents_are_no_tokens(tokenizer_json: str) -> None:
    made = tokenize([], 0, TextTokenizer(tokenizer_json), SPEC, lambda _: None)
    assert made.tokens.size == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"added_tokens":[1]}', "null"])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        TextTokenizer(text)
    assert caught.value.code == "bad_tokenizer"


@pytest.mark.parametrize("smallest_mapped_bytes", [0, 1 << 30])
def test_an_entry_is_stored_once_and_found_again(
    smallest_mapped_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.cache.SMALLEST_MAPPED_BYTES", smallest_mapped_bytes)
    cache = TokenCache(tmp_path)
    assert cache.load("f", SPEC) is None
    for found in (cache.store("f", SPEC, MADE), cache.load("f", SPEC)):
        assert found is not None
        assert np.array_equal(found.tokens, MADE.tokens)
        assert (found.num_documents, found.num_bytes) == (7, 4000)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        cache.path("f", SPEC).name
    ]
    others = [replace(SPEC, eot_id=1), replace(SPEC, split="validation"), replace(SPEC, salt="x")]
    assert len({cache.path("f", spec) for spec in [SPEC, *others]} | {cache.path("g", SPEC)}) == 5


def test_text_without_tokens_is_an_error_of_the_tokenizer() -> None:
    tokenizer = TextTokenizer(str(Tokenizer(models.WordLevel({"a": 0}, unk_token="?")).to_str()))
    with pytest.raises(RequestError) as caught:
        tokenize(["b"], 1, tokenizer, SPEC, lambda _: None)
    assert (caught.value.code, caught.value.field) == ("bad_tokenizer", "plan.tokenizer.hash")


def test_an_entry_may_be_empty(tmp_path: Path) -> None:
    empty = ShardTokens(np.empty(0, "<u2"), 0, 0)
    assert TokenCache(tmp_path).store("f", SPEC, empty).tokens.size == 0
    assert TokenCache(tmp_path).load("f", SPEC) is not None


@pytest.mark.parametrize("damage", ["cut", "header", "array", "empty", "longer"])
def test_a_damaged_entry_is_removed(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TokenCache(tmp_path)
    cache.store("f", SPEC, MADE)
    path = cache.path("f", SPEC)
    content = bytearray(path.read_bytes())
    if damage in ("header", "array"):
        content[{"header": 20, "array": 900}[damage]] ^= 4
    changed = {"cut": content[:-2], "empty": bytearray(), "longer": content + b"xx"}
    path.write_bytes(changed.get(damage, content))
    with caplog.at_level(logging.WARNING):
        assert cache.load("f", SPEC) is None
    assert "damaged cache entry" in caplog.text
    assert not path.exists()


def test_a_cache_that_cannot_be_written_is_bypassed_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = TokenCache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        for name in ("f", "g"):
            assert cache.load(name, SPEC) is None
            assert cache.store(name, SPEC, MADE) is MADE
    assert caplog.text.count("cache bypassed") == 1


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert TokenCache(tmp_path).store("f", SPEC, MADE) is MADE
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_writers_may_race(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            cache = TokenCache(tmp_path)
            assert cache.store("f", SPEC, MADE) is not MADE
            assert cache.load("f", SPEC) is not None
            done.append(1)

    done: list[int] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 80


def test_default_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache_dir() == tmp_path / "x" / "babygpt_exp" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "babygpt_exp" / "tokens"
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert default_cache_dir().is_relative_to(tmp_path)
    assert "tokens are kept in" in caplog.text
    assert stat.S_ISDIR(os.stat(tmp_path).st_mode)
