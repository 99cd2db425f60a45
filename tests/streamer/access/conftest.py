"""Servers that ask for tokens, and a file of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from token_servers import OTHER_TOKEN, TOKEN, Server, Start


@pytest.fixture
def start(tmp_path: Path, corpus: Path, cache_dir: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start(*arguments: str, **environment: str) -> Server:
        common = (f"--source={corpus}", f"--cache-dir={cache_dir}")
        started.append(Server(tmp_path, *common, *arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may read\n\n{OTHER_TOKEN}\n  {TOKEN}  \n")
    path.chmod(0o600)
    return path
