"""The cache folder: one limit for all of it, no damaged entry, and work without it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from streamer.cache import TokenCache
from streamer.disk import CacheDisk
from streamer.errors import SourceError
from streamer.sources.document_cache import DocumentCache, Documents
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
from streamer.tokens import ShardTokens, TokenSpec

SPEC = TokenSpec("0" * 64, 0, "<u2", 0.1, "salt", "train")
DOCUMENTS = Documents(["a", "", "caf\u00e9 \0\r\n", "x" * 5000], 2, "line 7 is bad")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_documents_come_back(tmp_path: Path) -> None:
    cache = DocumentCache(CacheDisk(tmp_path))
    assert cache.load("ab") is None
    cache.store("ab", DOCUMENTS)
    assert cache.load("ab") == DOCUMENTS
    cache.store("cd", Documents([], 0, ""))
    assert cache.load("cd") == Documents([], 0, "")
    cache.store_tail("ab", b"tail")
    assert cache.load_tail("ab") == b"tail"


def test_damaged_documents_are_removed(tmp_path: Path) -> None:
    cache = DocumentCache(CacheDisk(tmp_path))
    path = cache.path("ab")
    cache.store("ab", DOCUMENTS)
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert cache.load("ab") is None
        assert not path.exists()
    for size in (0, 10, 64, len(content) - 1):
        path.write_bytes(content[:size])
        assert cache.load("ab") is None


def test_one_limit_holds_for_tokens_and_documents(tmp_path: Path) -> None:
    tokens = TokenCache(tmp_path, max_bytes=1_000_000)
    documents = DocumentCache(tokens.disk)
    foreign = tmp_path / "notes.txt"
    foreign.write_bytes(b"x" * 10_000)
    for number in range(60):
        made = ShardTokens(np.full(25_000, number, "<u2"), 1, 1)
        assert tokens.store(f"{number}", SPEC, made).tokens[0] == number
        documents.store(f"{number:040}", Documents([os.urandom(10_000).hex()], 0, ""))
        assert size_of(tmp_path) < 1_020_000
    assert tokens.load("59", SPEC) is not None
    assert tokens.load("0", SPEC) is None
    assert documents.load(f"{0:040}") is None
    assert foreign.exists()


def test_what_is_used_stays(tmp_path: Path) -> None:
    cache = DocumentCache(CacheDisk(tmp_path, 200_000))
    for number in range(30):
        cache.store(f"{number:040}", Documents([os.urandom(10_000).hex()], 0, ""))
        for kept in (0, number):
            path = cache.path(f"{kept:040}")
            os.utime(path, (time.time() - 1000 + number,) * 2)
            assert cache.load(f"{kept:040}") is not None
            assert time.time() - path.stat().st_mtime < 600


def test_other_processes_files_count_too(tmp_path: Path) -> None:
    first, second = (DocumentCache(CacheDisk(tmp_path, 300_000)) for _ in range(2))
    for number in range(60):
        (first, second)[number % 2].store(
            f"{number:040}", Documents([os.urandom(10_000).hex()], 0, "")
        )
    assert size_of(tmp_path) < 330_000


def test_abandoned_files_are_removed(tmp_path: Path) -> None:
    cache = DocumentCache(CacheDisk(tmp_path))
    cache.store("ab", DOCUMENTS)
    old, new = (cache.path("ab").with_name(f".{name}") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    DocumentCache(CacheDisk(tmp_path)).store("cd", DOCUMENTS)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("max_bytes", [0, 100, 50_000_000_000])
def test_without_a_folder_all_is_read_again(tmp_path: Path, max_bytes: int) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": "a" * 10_000}).encode()))
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    for folder in (blocked / "cache", tmp_path / "cache"):
        shelf, spec = Shelf(CacheDisk(folder, max_bytes)), SourceSpec(str(path))
        (shard,) = shelf.list_source(spec).shards
        for _ in range(2):
            assert shelf.read_shard(shard, spec) == ["a" * 10_000]
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = DocumentCache(CacheDisk(tmp_path))
    for name in ("ab", "cd"):
        cache.store(name, DOCUMENTS)
        assert cache.load(name) is None
    assert caplog.text.count("No space left") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_room_anywhere_an_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text"))
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    monkeypatch.setattr("tempfile.tempdir", str(blocked))
    shelf, spec = Shelf(CacheDisk(blocked / "cache")), SourceSpec(str(path))
    (shard,) = shelf.list_source(spec).shards
    with pytest.raises(SourceError, match=r"no room to decompress .*a\.txt\.gz: .*; make room"):
        shelf.read_shard(shard, spec)
