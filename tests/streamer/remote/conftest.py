"""Stores on loopback, and the documents of the corpus as files of all kinds."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from streamer_stores import BUCKET, PATIENCE, SECRET, FileServer, as_jsonl, as_parquet

from streamer.disk import CacheDisk
from streamer.sources.remote import Patience
from streamer.sources.shelf import Shelf


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture
def web() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def make_shelf(tmp_path: Path) -> Iterator[Callable[..., Shelf]]:
    made: list[Shelf] = []

    def make(patience: Patience = PATIENCE, cache: Path = tmp_path / "cache") -> Shelf:
        made.append(Shelf(CacheDisk(cache), patience))
        return made[-1]

    yield make
    for shelf in made:
        shelf.close()


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """moto's S3 server; gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 bucket, empty, and the variables with which it is reached."""
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": moto,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    files.mkdir(BUCKET)
    yield files
    files.rm(BUCKET, recursive=True)


@pytest.fixture(scope="session")
def files(documents: list[str]) -> dict[str, bytes]:
    """The documents as files of all kinds, in the layout of FineWeb's samples."""
    lines = [as_jsonl(part) for part in (documents[200:250], documents[250:280])]
    return {
        "sample/10BT/000_00000.parquet": as_parquet(documents[:100], 40),
        "sample/10BT/001_00000.parquet": as_parquet(documents[100:200], 30),
        "sample/10BT/002.jsonl": lines[0],
        "sample/10BT/003.jsonl.gz": gzip.compress(lines[1]),
        "sample/10BT/004.jsonl.zst": zstandard.compress(as_jsonl(documents[280:])),
        "sample/10BT/005.txt": "\n\n".join(documents).encode(),
    }


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in files.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "local" / "sample" / "10BT"
