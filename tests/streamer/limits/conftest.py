"""A server that allows little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamer_forks import fork
from streamer_harness import ServerProcess


@pytest.fixture(scope="module")
def small(corpus: Path, cache_dir: Path) -> Iterator[ServerProcess]:
    """A server that allows little."""
    limits = ["control_bytes=2000", "tokenizer_bytes=4000", "errors=5", "send_seconds=2"]
    process = ServerProcess(
        corpus, cache_dir, *(f"--limit={limit}" for limit in limits), start=fork
    )
    yield process
    process.kill()
