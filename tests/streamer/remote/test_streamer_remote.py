"""Remote sources against real servers on loopback: the same text, and few bytes for it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from streamer_harness import REPOSITORY
from streamer_stores import (
    BUCKET,
    COMMITS,
    SECRET,
    FileServer,
    as_jsonl,
    as_parquet,
    read_all,
)

from streamer.sources import listing as listing_module
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec


def test_web_gives_what_the_disk_gives(
    web: FileServer,
    files: dict[str, bytes],
    folder: Path,
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 5000)
    web.files = {f"/{name}": content for name, content in files.items()}
    shelf = make_shelf()
    expected = read_all(shelf, str(folder))
    assert [text for name in files for text in read_all(shelf, f"{web.url}/{name}")] == expected


@pytest.mark.parametrize("pattern", ["sample/10BT", "sample/*/*", "sample/10BT/00[0-5]*"])
def test_s3_gives_what_the_disk_gives(
    bucket: Any,
    files: dict[str, bytes],
    folder: Path,
    make_shelf: Callable[..., Shelf],
    pattern: str,
) -> None:
    for name, content in files.items():
        bucket.pipe_file(f"{BUCKET}/{name}", content)
    bucket.pipe_file(f"{BUCKET}/sample/10BT/README.md", b"not read")
    shelf = make_shelf()
    assert read_all(shelf, f"s3://{BUCKET}/{pattern}") == read_all(shelf, str(folder))
    assert shelf.list_source(SourceSpec(f"s3://{BUCKET}/{pattern}")).name in ("10BT", "sample")


HUB_SCRIPT = """
import json, logging, sys
from pathlib import Path
from streamer.disk import CacheDisk
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
logging.basicConfig(level=logging.INFO)
shelf, found = Shelf(CacheDisk(Path(sys.argv[1]))), {}
for address in sys.argv[2:]:
    spec = SourceSpec(address)
    listing = shelf.list_source(spec)
    texts = [text for shard in listing.shards for text in shelf.read_shard(shard, spec)]
    found[address] = [listing.fingerprint, texts]
shelf.close()
print(json.dumps(found))
"""


def test_the_hub_gives_what_the_disk_gives(
    web: FileServer,
    files: dict[str, bytes],
    folder: Path,
    make_shelf: Callable[..., Shelf],
    tmp_path: Path,
) -> None:
    """Its library reads HF_ENDPOINT when it is imported, hence another process."""
    for commit in COMMITS:
        root = f"/cdn/datasets/HuggingFaceFW/fineweb/{commit}"
        web.files |= {f"{root}/{name}": content for name, content in files.items()}
        web.files[f"{root}/README.md"] = b"not read"
    web.files[f"{root}/sample/10BT/005.txt"] = b"other text"
    root = "hf://datasets/HuggingFaceFW/fineweb"
    addresses = [
        f"{root}/sample/10BT",
        f"{root}@main/sample/10BT/*.*",
        f"{root}@{COMMITS[1]}/sample/10BT/005.txt",
    ]
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, str(tmp_path / "hub"), *addresses],
        capture_output=True,
        timeout=120,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": web.url, "HF_TOKEN": f"hf_{SECRET}"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    shelf = make_shelf()
    local = shelf.list_source(SourceSpec(str(folder)))
    expected = [local.fingerprint, read_all(shelf, str(folder))]
    assert found[addresses[0]] == found[addresses[1]] == expected
    assert found[addresses[2]][1] == ["other text"]
    sent = {
        path.split("/")[1]: {key.lower(): value for key, value in headers.items()}
        for (path, _), headers in zip(web.requests, web.headers, strict=True)
    }
    assert (
        sent["api"]["authorization"] == sent["datasets"]["authorization"] == f"Bearer hf_{SECRET}"
    )
    assert "authorization" not in sent["cdn"]
    assert SECRET not in done.stderr
    assert "Signature" not in done.stderr


def test_only_the_column_is_read(web: FileServer, make_shelf: Callable[..., Shelf]) -> None:
    texts = [f"{number} " + "x" * 50 for number in range(1000)]
    noise = [os.urandom(1000).hex() for _ in texts]
    web.files["/a.parquet"] = as_parquet(texts, 100, noise=noise)
    shelf, spec = make_shelf(), SourceSpec(f"{web.url}/a.parquet")
    shards = shelf.list_source(spec).shards
    assert len(web.requests) == 2  # the first byte for what is told of it, and the footer
    assert web.num_bytes <= 1 + (64 << 10)
    web.num_bytes = 0
    assert shelf.read_shard(shards[7], spec) == texts[700:800]
    assert len(web.requests) == 3
    assert web.num_bytes < 10_000 < len(web.files["/a.parquet"]) // 100
    assert shelf.read_shard(shards[7], spec) == texts[700:800]
    again = make_shelf()
    assert again.list_source(spec).shards == shards
    assert again.read_shard(shards[7], spec) == texts[700:800]
    assert len(web.requests) == 4  # both are on disk; only the file's state was asked for


def test_a_slice_is_read_by_range(
    web: FileServer, make_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 1 << 20)
    texts = [f"{number} " + "x" * 5000 for number in range(2000)]
    web.files["/a.jsonl"] = as_jsonl(texts)
    shelf, spec = make_shelf(), SourceSpec(f"{web.url}/a.jsonl")
    shards = shelf.list_source(spec).shards
    assert web.num_bytes == 1
    found = shelf.read_shard(shards[5], spec)
    assert found == texts[texts.index(found[0]) :][: len(found)]
    assert 1 << 20 < web.num_bytes < 3 << 19


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_one_pass_prepares_all_slices(
    web: FileServer,
    make_shelf: Callable[..., Shelf],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    monkeypatch.setattr(listing_module, "SLICE_BYTES", 10_000)
    texts = [f"{number} {os.urandom(40).hex()}" for number in range(2000)]
    compress = gzip.compress if suffix.endswith("gz") else zstandard.compress
    web.files[f"/a{suffix}"] = compress(as_jsonl(texts))
    shelf = make_shelf()
    assert read_all(shelf, f"{web.url}/a{suffix}") == texts
    assert len(web.requests) == 2
    assert len(shelf.list_source(SourceSpec(f"{web.url}/a{suffix}")).shards) > 20
