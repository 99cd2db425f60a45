"""Servers of the tiny run, and its model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from experiment_harness import SECONDS, TinyRun
from serve_harness import TOKEN, Server, Start

from babygpt_exp.serving.completions import Limits, Served
from babygpt_exp.trained import Trained, load_trained


@pytest.fixture(scope="module")
def start(
    tiny_run: TinyRun, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts servers of the tiny run; what still runs in the end is killed."""
    started: list[Server] = []

    def start(*arguments: str, **options: Any) -> Server:
        options = {"cwd": tmp_path_factory.mktemp("serve"), "env": environment} | options
        started.append(Server(tiny_run.folder, *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.openai.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate(SECONDS)


@pytest.fixture(scope="module")
def server(start: Start) -> Iterator[Server]:
    """The server of all tests that leave it as it was; in the end it is idle and ends at once."""
    started = start()
    yield started
    output, errors = started.stop(signal.SIGINT)
    assert output == ""
    assert [line.split()[2] for line in errors.splitlines()[-2:]] == ["stopping", "stopped"]


@pytest.fixture(scope="module")
def strict(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that asks for a token, and lets a single text wait; its tests come in their order,
    the last one ends it."""
    file = tmp_path_factory.mktemp("strict") / "tokens"
    file.write_text(f"{TOKEN}\n")
    return start(f"--token-file={file}", "--name=mine", "--queue=1", "--checkpoint=best", key=TOKEN)


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun) -> Trained:
    return load_trained(tiny_run.folder)


@pytest.fixture(scope="module")
def served(trained: Trained) -> Served:
    return Served(trained, "tiny", Limits(max_prompt_tokens=64, body_bytes=1000))
