"""Documents that cannot be read: named, or left out in a way that depends on the bytes alone."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from streamer_stores import FileServer

from streamer.disk import CacheDisk
from streamer.errors import SourceError
from streamer.sources import listing as listing_module
from streamer.sources.remote import Patience
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
BAD_LINES = {
    b'{"text":': "is not valid JSON",
    b"\xff": "is not valid JSON",
    b"[1]": "is not a JSON object",
    b'{"text":5}': "holds no text",
    b'{"other":"a"}': "has no field 'text'",
    b'{"text":"\\ud800"}': "holds half a surrogate pair",
}


def read(path: Path, mode: str, cache: Path = Path("/nonexistent")) -> tuple[list[str], Shelf]:
    shelf, spec = Shelf(CacheDisk(cache)), SourceSpec(str(path), on_bad_document=mode)
    shards = shelf.list_source(spec).shards
    return [text for shard in shards for text in shelf.read_shard(shard, spec)], shelf


def as_jsonl(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_bad_lines_are_named_or_skipped(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 2000)
    good = [f"{number} " + "x" * 40 for number in range(300)]
    lines = as_jsonl(good).splitlines(keepends=True)
    for number, line in enumerate(BAD_LINES):
        lines.insert(5 + number * 30, line + b"\n")
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSORS[suffix](b"".join(lines)))
    with pytest.raises(SourceError, match=r"a\.jsonl.* line 6 is not valid JSON"):
        read(path, "error")
    caplog.clear()
    found, shelf = read(path, "skip", tmp_path / "cache")
    assert found == good
    assert shelf.counters["bad_documents"] == len(BAD_LINES)
    first = rf"skipped \d bad documents of {re.escape(str(path))} \(first: line 6 is not valid JSON"
    assert re.search(first, caplog.text)
    assert read(path, "skip", tmp_path / "cache")[0] == good


def test_the_mode_is_part_of_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(["a"]))
    shelf = Shelf(CacheDisk(tmp_path))
    listings = [
        shelf.list_source(SourceSpec(str(path), on_bad_document=mode)) for mode in ("error", "skip")
    ]
    assert listings[0].fingerprint != listings[1].fingerprint


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_damaged_archive_gives_what_comes_before(
    tmp_path: Path, suffix: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = [os.urandom(30).hex() for _ in range(30_000)]
    stored = bytearray(COMPRESSORS[suffix](as_jsonl(good)))
    at = len(stored) * 2 // 3
    if harm == "cut":
        del stored[at:]
    else:
        stored[at : at + 200] = b"\xff" * 200
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(stored)
    with pytest.raises(SourceError, match="cannot be decompressed"):
        read(path, "error")
    found, shelf = read(path, "skip", tmp_path / "cache")
    assert found[:19_000] == good[:19_000]
    if harm == "cut":
        assert found == good[: len(found)]
    assert read(path, "skip", tmp_path / "cache")[0] == read(path, "skip")[0] == found
    assert shelf.counters["bad_documents"] >= 1
    assert "the rest is lost" in caplog.text


def test_a_network_that_fails_is_never_skipped(tmp_path: Path) -> None:
    web = FileServer()
    try:
        for name, content in {"a.jsonl.gz": gzip.compress(as_jsonl(["a"])), "b.txt": b"b"}.items():
            web.files[f"/{name}"] = content
            patience = Patience(1.0, 0.3, longest_pause_seconds=0.1)
            shelf = Shelf(CacheDisk(tmp_path), patience)
            spec = SourceSpec(f"{web.url}/{name}", on_bad_document="skip")
            (shard,) = shelf.list_source(spec).shards
            web.faults = ["500"] * 1000
            with pytest.raises(SourceError, match="it answers 500") as caught:
                shelf.read_shard(shard, spec)
            assert caught.value.retry
            web.faults = []
            assert shelf.read_shard(shard, spec) == [name[0]]
            shelf.close()
    finally:
        web.close()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.string_view()])
def test_rows_that_are_not_utf8(tmp_path: Path, kind: Any) -> None:
    values = pa.array([b"a", b"\xff", None, b"caf\xc3\xa9"], pa.binary())
    if kind == pa.string_view():
        values = pa.array(["a", None, "caf\u00e9"], kind)
    elif kind != pa.binary():
        offsets = pa.large_binary() if kind == pa.large_string() else pa.binary()
        buffers = values.cast(offsets).buffers()
        values = pa.Array.from_buffers(kind, 4, buffers, null_count=1)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values}), path)
    if kind != pa.string_view():
        with pytest.raises(SourceError, match=r"a\.parquet row group 0 row 1 is not UTF-8"):
            read(path, "error")
    assert read(path, "skip")[0] == ["a", "caf\u00e9"]


def test_dictionary_columns_are_text(tmp_path: Path) -> None:
    values = pa.array(["a", "b", "a", None]).dictionary_encode()
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "error")[0] == ["a", "b", "a"]


def test_text_that_is_not_utf8_is_left_out_by_document(tmp_path: Path) -> None:
    parts = [f"{number} ".encode() + b"x" * 5000 + b"\n\n" for number in range(9)]
    (tmp_path / "a.txt").write_bytes(b"".join([*parts[:4], b"\xff" * 5000 + b"\n\n", *parts[4:]]))
    with pytest.raises(SourceError, match=f"byte {sum(map(len, parts[:4]))} is not UTF-8"):
        read(tmp_path / "a.txt", "error")
    assert read(tmp_path / "a.txt", "skip")[0] == [part.decode() for part in parts]


def test_bytes_cut_from_a_parquet_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 100] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="does not end as such a file does"):
        read(path, "skip")
