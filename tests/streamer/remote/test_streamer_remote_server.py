"""The server over remote sources: what it delivers is what it delivers of the same files here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import ServerProcess, epoch, rows, sha256
from streamer_stores import BUCKET, COMMITS, FileServer

from streamer.client import StreamClient

Start = Callable[..., ServerProcess]


@pytest.fixture
def deliver(
    start_server: Start, plan: dict[str, Any], tokenizer_json: str, tmp_path: Path
) -> Callable[..., tuple[str, list[list[int]]]]:
    def run(name: str, source: Path | str, *arguments: str) -> tuple[str, list[list[int]]]:
        server = start_server(source, *arguments, cache_dir=tmp_path / f"cache-{name}")
        with StreamClient([server.url], deadline_seconds=60) as client:
            client.upload_tokenizer(tokenizer_json)
            batches = epoch(client, plan, 8)
        server.kill()
        assert "Signature" not in server.errors
        return sha256(batches), rows(batches)

    return run


def test_all_stores_give_the_same_tokens(
    web: FileServer,
    bucket: Any,
    files: dict[str, bytes],
    folder: Path,
    deliver: Callable[..., tuple[str, list[list[int]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = f"/cdn/datasets/HuggingFaceFW/fineweb/{COMMITS[0]}"
    web.files = {f"{root}/{name}": content for name, content in files.items()}
    for name, content in files.items():
        bucket.pipe_file(f"{BUCKET}/{name}", content)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    expected = deliver("local", folder)
    assert len(expected[1]) > 100
    assert deliver("s3", f"s3://{BUCKET}/sample/10BT") == expected
    assert deliver("hub", "hf://datasets/HuggingFaceFW/fineweb/sample/10BT") == expected


def test_several_files_of_a_web_server_are_mixed_as_local_ones(
    web: FileServer,
    files: dict[str, bytes],
    folder: Path,
    deliver: Callable[..., tuple[str, list[list[int]]]],
) -> None:
    web.files = {f"/{name}": content for name, content in files.items()}
    names = ["000_00000.parquet", "003.jsonl.gz"]
    sources = [
        [f"{root}/{names[0]}=2", "--source", f"{root}/{names[1]}"]
        for root in (folder, f"{web.url}/sample/10BT")
    ]
    expected = deliver("local", *sources[0])
    web.faults = ["", "", "", "429 0", "cut", "500", "reset"]
    assert deliver("web", *sources[1]) == expected
    assert not web.faults


def test_a_file_that_changes_under_a_server_is_never_delivered(
    web: FileServer,
    start_server: Start,
    plan: dict[str, Any],
    tokenizer_json: str,
) -> None:
    web.files["/a.txt"] = b"some text that is one document\n" * 100
    server = start_server(f"{web.url}/a.txt")
    web.files["/a.txt"] = b"another text that came later on\n" * 100
    options = {"validation": {"fraction": 0.0, "salt": ""}}
    with StreamClient([server.url], deadline_seconds=60) as client:
        client.upload_tokenizer(tokenizer_json)
        with pytest.raises(Exception, match="changed after it was listed"):
            epoch(client, plan | options, 4)
        assert epoch(client, plan | options, 4)
