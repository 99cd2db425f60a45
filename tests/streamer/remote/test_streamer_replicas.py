"""Replicas behind nginx that share an object store and no disk: they die, the stream does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import FRACTION, SALT, ServerProcess, epoch, sha256
from streamer_replicas import NGINX, Replicas
from streamer_stores import BUCKET

from streamer.client import StreamClient

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

NUM_KILLS = 3
BATCH = 2
FEW = 25
"""Batches between two kills."""


@pytest.fixture
def corpus_folder(bucket: Any, files: dict[str, bytes], tmp_path: Path) -> Path:
    """Two files that are in the bucket too."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("000_00000.parquet", "001_00000.parquet"):
        content = files[f"sample/10BT/{name}"]
        (folder / name).write_bytes(content)
        bucket.pipe_file(f"{BUCKET}/{name}", content)
    return folder


@pytest.fixture
def replicas(
    corpus_folder: Path, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> Iterator[Replicas]:
    started = Replicas(
        tmp_path, lambda cache: start_server(f"s3://{BUCKET}/*.parquet", cache_dir=cache), 3
    )
    yield started
    started.close()


def test_the_stream_is_the_undisturbed_one(
    replicas: Replicas,
    corpus_folder: Path,
    start_server: Callable[..., ServerProcess],
    plan: dict[str, Any],
    tokenizer_json: str,
) -> None:
    texts = {"split": "train", "fraction": FRACTION, "salt": SALT, "max_documents": 150}
    with StreamClient([start_server(corpus_folder).url], deadline_seconds=60) as client:
        client.upload_tokenizer(tokenizer_json)
        reference = sha256(epoch(client, plan, BATCH)), client.documents(**texts)
    with StreamClient([replicas.url], deadline_seconds=60) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=BATCH, epochs=1, credit=4)
        batches = []
        for _ in range(NUM_KILLS):
            batches += [next(stream) for _ in range(FEW)]
            replicas.kill(replicas.busy())
            batches += [next(stream) for _ in range(FEW)]  # of the others, as nginx finds out
            replicas.add()
        for server in list(replicas.servers):
            replicas.kill(server)
        replicas.add()
        batches += stream
        assert stream.reconnects > NUM_KILLS
        assert (sha256(batches), client.documents(**texts)) == reference
    assert replicas.nginx is not None
    assert "emerg" not in replicas.nginx.log
