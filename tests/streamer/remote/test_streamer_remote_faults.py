"""Remote sources whose servers stall, break off, refuse, change and vanish."""

from __future__ import annotations

import gzip
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy, Toxics
from streamer_stores import (
    BUCKET,
    LITTLE_PATIENCE,
    PATIENCE,
    SECRET,
    FileServer,
    as_jsonl,
    as_parquet,
    read_all,
)

from streamer.errors import SourceError
from streamer.sources import listing as listing_module
from streamer.sources.remote import Patience, retry_after_seconds
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

HASTE = replace(PATIENCE, stall_seconds=0.3)
"""Where it does no harm that a slow answer is taken for none."""


@pytest.mark.parametrize(
    "faults",
    [
        ["429 0", "429", "500", "503 0"],
        ["stall", "stall"],
        ["cut", "cut", "cut"],
        ["reset", "reset"],
        ["whole"],
        ["500", "cut", "whole", "stall", "reset"],
    ],
)
def test_faults_pass(web: FileServer, make_shelf: Callable[..., Shelf], faults: list[str]) -> None:
    texts = [f"{number} {os.urandom(300).hex()}" for number in range(1000)]
    web.files |= {"/a.parquet": as_parquet(texts, 300), "/a.jsonl": as_jsonl(texts)}
    for name in ("a.parquet", "a.jsonl"):
        shelf, spec = make_shelf(HASTE), SourceSpec(f"{web.url}/{name}")
        shards = shelf.list_source(spec).shards
        web.faults = list(faults)
        assert [text for shard in shards for text in shelf.read_shard(shard, spec)] == texts
        assert not web.faults
        assert shelf.counters["retries"] >= len(faults) - 1


def test_the_store_says_when_to_come_back(
    web: FileServer, make_shelf: Callable[..., Shelf]
) -> None:
    web.files["/a.txt"] = b"text"
    web.faults = ["429 1"]
    began = time.monotonic()
    assert read_all(make_shelf(), f"{web.url}/a.txt") == ["text"]
    assert time.monotonic() - began >= 1.0
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (retry_after_seconds("Fri, 31 Dec 9999 23:59:59 GMT") or 0) > 3000
    assert retry_after_seconds("soon") is retry_after_seconds(None) is None


@pytest.mark.parametrize("fault", ["500", "429", "stall", "cut", "429 30"])
def test_patience_ends_with_one_line(
    web: FileServer, make_shelf: Callable[..., Shelf], fault: str
) -> None:
    web.files["/a.txt"] = b"text" * 10
    shelf, spec = make_shelf(LITTLE_PATIENCE), SourceSpec(f"{web.url}/a.txt")
    (shard,) = shelf.list_source(spec).shards
    web.faults = [fault] * 1000
    with pytest.raises(
        SourceError, match=r"cannot read http://.*/a\.txt: .* attempts in"
    ) as caught:
        shelf.read_shard(shard, spec)
    assert caught.value.retry
    web.faults = []
    assert shelf.read_shard(shard, spec) == ["text" * 10]


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_will_not_pass_is_an_error_at_once(
    web: FileServer, make_shelf: Callable[..., Shelf], status: str
) -> None:
    web.faults = [status]
    with pytest.raises(SourceError, match=f"answers {status}") as caught:
        make_shelf().list_source(SourceSpec(f"{web.url}/a.txt"))
    assert not caught.value.retry
    assert len(web.requests) == 1


@pytest.mark.parametrize("tells", ["etag", "date", ""])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_file_that_changes_is_noticed(
    web: FileServer, make_shelf: Callable[..., Shelf], tells: str, suffix: str
) -> None:
    compress = gzip.compress if suffix.endswith("gz") else bytes
    web.tells, web.files[f"/a{suffix}"] = tells, compress(as_jsonl(["one"]))
    shelf, spec = make_shelf(), SourceSpec(f"{web.url}/a{suffix}")
    first = shelf.list_source(spec)
    web.files[f"/a{suffix}"] = compress(as_jsonl(["two"]))
    web.dates[f"/a{suffix}"] = "Wed, 04 Nov 2026 10:00:00 GMT"
    with pytest.raises(SourceError, match="changed after it was listed"):
        shelf.read_shard(first.shards[0], spec)
    assert shelf.scan(spec.address) != first.snapshot
    second = shelf.list_source(spec)
    assert second.fingerprint != first.fingerprint
    assert shelf.read_shard(second.shards[0], spec) == ["two"]


def test_a_server_without_ranges_is_read_whole(
    web: FileServer,
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 10_000)
    web.has_ranges = False
    texts = [f"{number} {os.urandom(40).hex()}" for number in range(1000)]
    web.files |= {"/a.jsonl": as_jsonl(texts), "/b.parquet": as_parquet(texts, 100)}
    shelf = make_shelf()
    assert read_all(shelf, f"{web.url}/a.jsonl") == texts
    assert len(web.ranges("a.jsonl")) == 2
    assert read_all(shelf, f"{web.url}/b.parquet") == texts
    assert len(web.ranges("b.parquet")) == 3
    assert caplog.text.count("it is read as a whole") == 2


def test_what_was_read_is_served_while_the_store_is_gone(
    web: FileServer,
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("streamer.sources.stores.RELIST_SECONDS", 0.0)
    monkeypatch.setattr("streamer.sources.stores.RELIST_DEADLINE_SECONDS", 0.5)
    web.files["/a.txt"] = b"text"
    shelf, spec = make_shelf(), SourceSpec(f"{web.url}/a.txt")
    listing = shelf.list_source(spec)
    assert shelf.read_shard(listing.shards[0], spec) == ["text"]
    web.faults = ["500"] * 1000
    assert shelf.scan(spec.address) == listing.snapshot
    assert shelf.read_shard(listing.shards[0], spec) == ["text"]
    assert "as they were listed before" in caplog.text


def test_a_hub_that_is_silent_is_given_up(
    web: FileServer, make_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", web.url)
    web.faults = ["silent"] * 1000
    with pytest.raises(SourceError, match="cannot read hf://datasets/o/n: it does not") as caught:
        make_shelf(LITTLE_PATIENCE).list_source(SourceSpec("hf://datasets/o/n"))
    assert caught.value.retry


@pytest.mark.parametrize("fault", ["500", "stall", "silent"])
def test_closing_ends_a_wait_at_once(
    web: FileServer, make_shelf: Callable[..., Shelf], fault: str
) -> None:
    web.files["/a.txt"] = b"text"
    shelf, spec = (
        make_shelf(Patience(1000.0, 1000.0, 1000.0, 1000.0)),
        SourceSpec(f"{web.url}/a.txt"),
    )
    (shard,) = shelf.list_source(spec).shards
    web.faults = [fault] * 1000
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shelf.read_shard, shard, spec)
        while not web.ranges("a.txt")[1:]:
            time.sleep(0.02)
        shelf.close()
        with pytest.raises(SourceError, match="the server is stopping"):
            reading.result(timeout=60)


@pytest.mark.parametrize(
    ("address", "package", "command"),
    [
        ("s3://corpus/a.txt", "s3fs", "pip install 'babygpt-exp[s3]'"),
        ("hf://datasets/o/n", "huggingface_hub", "pip install 'babygpt-exp[hf]'"),
        ("gs://corpus/a.txt", "gcsfs", "pip install 'fsspec[gs]'"),
    ],
)
def test_a_missing_package_is_named(
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    package: str,
    command: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError) as caught:
        make_shelf().list_source(SourceSpec(address))
    assert str(caught.value).endswith(command)


def test_s3_without_credentials_says_which(
    bucket: Any, make_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"):
        make_shelf().list_source(SourceSpec(f"s3://{BUCKET}/a.txt"))
    monkeypatch.undo()


def test_s3_says_what_is_wrong(bucket: Any, make_shelf: Callable[..., Shelf]) -> None:
    bucket.pipe_file(f"{BUCKET}/a.txt", b"one")
    shelf, spec = make_shelf(), SourceSpec(f"s3://{BUCKET}/a.txt")
    (shard,) = shelf.list_source(spec).shards
    bucket.pipe_file(f"{BUCKET}/a.txt", b"two")
    with pytest.raises(SourceError, match="changed after it was listed"):
        shelf.read_shard(shard, spec)
    assert read_all(shelf, spec.address) == ["two"]
    with pytest.raises(SourceError, match="source not found: s3://corpus/absent"):
        shelf.list_source(SourceSpec(f"s3://{BUCKET}/absent.txt"))
    with pytest.raises(SourceError, match=r"(no files in|not found:) s3://nobucket"):
        shelf.list_source(SourceSpec("s3://nobucket/a"))


def test_s3_outlives_broken_connections(
    bucket: Any,
    moto: str,
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"{number} {os.urandom(300).hex()}" for number in range(2000)]
    bucket.pipe_file(f"{BUCKET}/a.jsonl", as_jsonl(texts))
    port = int(moto.rsplit(":", 1)[1])
    cuts = [200_000] * 3
    with FaultProxy(
        [port], lambda number: Toxics(reset_after_bytes=cuts.pop()) if cuts else Toxics()
    ) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        shelf = make_shelf()
        assert read_all(shelf, f"s3://{BUCKET}/a.jsonl") == texts
        assert proxy.num_faults >= 2  # the third may have hit a short answer
        assert shelf.counters["retries"] >= 2


def test_s3_that_is_not_there_is_given_up(
    bucket: Any, make_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SourceError, match=r"cannot read s3://corpus/a\.jsonl") as caught:
        read_all(make_shelf(LITTLE_PATIENCE), f"s3://{BUCKET}/a.jsonl")
    assert caught.value.retry
    assert SECRET not in str(caught.value)


def test_secrets_are_never_shown(
    web: FileServer, make_shelf: Callable[..., Shelf], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host = web.url.removeprefix("http://")
    address = f"http://user:{SECRET}@{host}/a.jsonl?X-Signature={SECRET}"
    web.files["/a.jsonl"] = as_jsonl(["a"]) + b"[1]\n"
    shelf, spec = make_shelf(LITTLE_PATIENCE), SourceSpec(address, on_bad_document="skip")
    listing = shelf.list_source(spec)
    assert listing.name == "a"
    assert shelf.read_shard(listing.shards[0], spec) == ["a"]
    assert "skipped 1 bad documents of http://127" in caplog.text
    assert web.headers[-1]["Authorization"].startswith("Basic ")
    messages = []
    for faults in (["404"], ["403"], ["500"] * 99, ["cut"] * 99, ["302"] * 99):
        web.faults = list(faults)
        with pytest.raises(SourceError) as caught:
            read_all(make_shelf(LITTLE_PATIENCE, Path("/nonexistent")), address)
        messages.append(str(caught.value))
    for text in [*messages, caplog.text, shelf.list_source(spec).shards[0].file.name]:
        assert SECRET not in text


def test_other_file_systems_work_too(make_shelf: Callable[..., Shelf]) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/corpus/a.jsonl", as_jsonl(["a", "b"]))
    shelf = make_shelf()
    assert read_all(shelf, "memory://corpus") == ["a", "b"]
    assert read_all(shelf, "memory://corpus/*.jsonl") == ["a", "b"]
    with pytest.raises(SourceError, match="no file system is known for weird://a"):
        shelf.list_source(SourceSpec("weird://a"))
    with pytest.raises(SourceError, match="cannot list files; name each file"):
        shelf.list_source(SourceSpec("https://127.0.0.1/*.jsonl"))
