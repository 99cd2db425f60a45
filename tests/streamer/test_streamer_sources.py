"""Sources: the same documents from every format, nothing lost, and errors that name the place."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.disk import CacheDisk
from streamer.errors import SourceError
from streamer.sources import listing as listing_module
from streamer.sources.address import name_of, shown
from streamer.sources.listing import Listing
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


ABSENT = Path("/nonexistent")
"""A cache folder that cannot be written."""


def listed(source: Path | str, column: str = "text", cache: Path = ABSENT) -> Listing:
    return Shelf(CacheDisk(cache)).list_source(SourceSpec(str(source), column=column))


def read_all(
    source: Path | str, column: str = "text", cache: Path = ABSENT, mode: str = "error"
) -> list[str]:
    shelf = Shelf(CacheDisk(cache))
    spec = SourceSpec(str(source), column=column, on_bad_document=mode)
    shards = shelf.list_source(spec).shards
    return [text for shard in shards for text in shelf.read_shard(shard, spec)]


def as_jsonl(documents: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in documents).encode()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 10_000)


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.usefixtures("small_slices")
def test_jsonl_gives_the_documents(documents: list[str], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.jsonl{suffix}"
    path.write_bytes(COMPRESSORS[suffix](as_jsonl(documents)))
    assert len(listed(path).shards) > 10
    assert read_all(path) == documents


def test_parquet_gives_the_documents(documents: list[str], corpus: Path) -> None:
    assert len(listed(corpus).shards) == 7
    assert read_all(corpus) == documents
    assert read_all(f"{corpus}/*.parquet") == documents


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.usefixtures("small_slices")
def test_text_loses_no_byte(documents: list[str], tmp_path: Path, suffix: str) -> None:
    content = "\n\n".join(documents).encode()
    path = tmp_path / f"c.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](content))
    found = read_all(path)
    assert len(found) > 10
    assert "".join(found).encode() == content


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_slices_are_lossless_for_any_text(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    piece = st.sampled_from(
        ["x" * 3000, "\n", "\r\n", "\n\n", " ", "\n \t\n", "\u00e9", "y" * 70_000]
    )
    content = "".join(data.draw(st.lists(piece, min_size=1, max_size=40))).encode()
    path = tmp_path_factory.mktemp("text") / "c.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_module, "SLICE_BYTES", data.draw(st.integers(1000, 90_000)))
        assert "".join(read_all(path)).encode() == content


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1), size=st.integers(1, 200))
def test_jsonl_slices_are_lossless(
    texts: list[str], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "c.jsonl"
    path.write_bytes(as_jsonl(texts).replace(b"\n", b"\r\n\n").rstrip(b"\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_module, "SLICE_BYTES", size)
        assert read_all(path) == texts


def test_text_is_cut_after_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    paragraph = "word " * 1000 + "\n\n\n"
    path.write_text(paragraph * 5 + "line\n" * 20_000)
    found = read_all(path)
    assert found[:5] == [paragraph] * 5
    assert all(64 << 10 <= len(text) < 66 << 10 for text in found[5:-1])


def test_one_line_of_ten_megabytes_is_one_document(tmp_path: Path) -> None:
    line = "\u6c34" * 3_500_000
    (tmp_path / "a.txt").write_text(line)
    (tmp_path / "b.jsonl").write_bytes(as_jsonl([line, "short"]))
    assert read_all(tmp_path) == [line, line, "short"]


def test_nulls_and_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text":"c"}\n{"text":null}\n')
    assert read_all(tmp_path) == ["a", "b", "c"]


def test_names_do_not_matter_but_content_and_column_do(tmp_path: Path) -> None:
    def fingerprint(name: str, content: bytes, column: str = "text") -> str:
        (tmp_path / name).write_bytes(content)
        return listed(tmp_path / name, column).fingerprint

    line = b'{"text":"a","other":"b"}\n'
    assert fingerprint("a.jsonl", line) == fingerprint("b.jsonl", line)
    assert fingerprint("a.jsonl", line) != fingerprint("b.jsonl", line, "other")
    assert fingerprint("a.jsonl", line) != fingerprint("b.jsonl", line + line)
    assert fingerprint("a.jsonl", line) != fingerprint("b.txt", line)


def test_the_memo_recalls_settled_files_only(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl.gz", tmp_path / "cache"
    path.write_bytes(gzip.compress(as_jsonl(["a"])))
    first = listed(path, cache=cache)
    assert not cache.exists()
    os.utime(path, (1, 1))
    assert listed(path, cache=cache).fingerprint == first.fingerprint
    (entry,) = (cache / "files").iterdir()
    entry.write_text('{"sha256":"other"}')
    assert listed(path, cache=cache).fingerprint != first.fingerprint
    entry.write_text("damaged")
    assert listed(path, cache=cache).fingerprint == first.fingerprint


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b/x.txt", "a.txt", ".hidden/y.txt", "README.md", ".z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read_all(tmp_path) == ["a.txt", "b/x.txt"]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "absent", "source not found: "),
        (lambda d: d, "no files in "),
        (lambda d: f"{d}/*.jsonl", "no files in "),
        (lambda d: write(d / "a.csv", b"x"), "is none of .parquet"),
        (lambda d: write(d / "a.txt", b""), "holds no text"),
        (lambda d: table(d / "a.parquet", text=pa.array([], pa.string())), "holds no text"),
        (lambda d: write(d / "a.parquet", b"PAR1 nonsense PAR1"), "as parquet"),
        (lambda d: table(d / "a.parquet", body=["x"], id=[1]), "its columns are body, id"),
        (lambda d: table(d / "a.parquet", text=[1]), "is int64, not text"),
        (lambda d: write(d / "a.jsonl", b'{"body":"x"}\n'), "line 1 has no field 'text'"),
        (lambda d: write(d / "a.jsonl", b"[1]\n"), "line 1 is not a JSON object"),
        (lambda d: write(d / "a.parquet", b""), "holds no text"),
        (lambda d: write(d / "a.jsonl.gz", gzip.compress(b"[1]\n")), "line 1 is not a JSON"),
        (lambda d: write(d / "a.jsonl.zst", b"nonsense"), "cannot be decompressed"),
    ],
)
def test_listing_errors_are_one_line(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SourceError) as caught:
        listed(make(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text":', "line 3 is not valid JSON"),
        (b"\xff", "line 3 is not valid JSON"),
        (b'{"text":5}', "line 3 holds no text"),
        (b'{"other":"a"}', "line 3 has no field 'text'"),
        (b'{"text":"\\ud800"}', "line 3 holds half a surrogate pair"),
        (b"[" * 100_000, "line 3 is not valid JSON"),
    ],
)
@pytest.mark.usefixtures("small_slices")
def test_a_bad_line_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_jsonl(["x" * 20_000, "b"]) + line + b"\n")
    with pytest.raises(SourceError, match=r"a\.jsonl line 3") as caught:
        read_all(path)
    assert message in str(caught.value)


def test_a_broken_row_group_is_named(documents: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": documents}), path, row_group_size=100, compression="zstd")
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start, size = (
        column.dictionary_page_offset or column.data_page_offset,
        column.total_compressed_size,
    )
    content[start : start + size] = os.urandom(size)
    path.write_bytes(content)
    shelf, spec = Shelf(CacheDisk(ABSENT)), SourceSpec(str(path))
    shards = shelf.list_source(spec).shards
    assert shelf.read_shard(shards[0], spec) == documents[:100]
    with pytest.raises(SourceError, match=r"a\.parquet row group 1 cannot be read"):
        shelf.read_shard(shards[1], spec)
    assert read_all(path, mode="skip") == documents[:100] + documents[200:]


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"good\n" * 1000 + b"\xff\n")
    with pytest.raises(SourceError, match="byte 5000 is not UTF-8"):
        read_all(path)
    assert read_all(path, mode="skip") == []


def test_a_file_that_changed_is_never_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n")
    shelf, spec = Shelf(CacheDisk(ABSENT)), SourceSpec(str(path))
    (shard,) = shelf.list_source(spec).shards
    os.utime(write(path, b"two\n"), (1, 1))
    with pytest.raises(SourceError, match="changed after it was listed"):
        shelf.read_shard(shard, spec)
    path.unlink()
    with pytest.raises(SourceError, match="cannot read"):
        shelf.read_shard(shard, spec)


def test_a_large_file_is_known_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.sources.files.HASHED_BYTES", 1000)
    monkeypatch.setattr("streamer.sources.files.SAMPLE_BYTES", 100)
    path = tmp_path / "a.txt"
    content = b"".join(b"%07d\n" % number for number in range(5000))

    def fingerprint(content: bytes) -> str:
        path.write_bytes(content)
        return listed(path).fingerprint

    known = fingerprint(content)
    assert known == fingerprint(content)
    changed_between = content[:300] + b"x" + content[301:]
    assert known == fingerprint(changed_between)
    for at in (0, 99, len(content) // 9 * 3, len(content) - 1):
        assert known != fingerprint(content[:at] + b"x" + content[at + 1 :])
    assert known != fingerprint(content + b"x")


@pytest.mark.parametrize(
    ("address", "as_shown", "name"),
    [
        ("/data/a.jsonl.gz", "/data/a.jsonl.gz", "a"),
        ("/data/*.parquet", "/data/*.parquet", "data"),
        ("https://u:p@h/d/a.txt?X-Sig=s&b=c", "https://h/d/a.txt?...", "a"),
        ("https://h/a.txt?secret", "https://h/a.txt?...", "a"),
        ("https://h:80/a.txt#part", "https://h:80/a.txt?...", "a"),
        ("s3://bucket/x/part?.jsonl", "s3://bucket/x/part?.jsonl", "x"),
        ("hf://datasets/o/n@v1/d/*", "hf://datasets/o/n@v1/d/*", "d"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, as_shown: str, name: str) -> None:
    assert shown(address) == as_shown
    assert shown(f"cannot read '{address}' now") == f"cannot read '{as_shown}' now"
    assert name_of(address) == name
