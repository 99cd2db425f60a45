"""The benchmark: one JSON object with the figures that it promises, or one line."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.bench import ClientError, run_clients

pytestmark = pytest.mark.slow

POSITIVE = (
    "tokenize_tokens_per_s",
    "first_batch_seconds",
    "first_batch_cached_seconds",
    "cold_epoch_tokens_per_s",
    "serve_tokens_per_s_1",
    "serve_tokens_per_s_2",
    "cpu_seconds_per_million_tokens",
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_prints_every_figure(corpus: Path) -> None:
    short = ["--seconds", "0.5", "--repeats", "1", "--clients", "1", "2", "--batch", "4"]
    done = bench("--source", str(corpus), *short)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert all(figures[name] > 0 for name in POSITIVE)
    assert figures["first_batch_seconds"] > figures["first_batch_cached_seconds"]
    assert len(figures["server_memory_mb"]) == 3


def test_a_client_that_dies_ends_the_others() -> None:
    with pytest.raises(ClientError, match="gave no figures"):
        run_clients(2, "no address", "", {}, 1, 0.1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--source", "/absent"], 1, "/absent"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--batches", "3"], 2, "--batches"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments: list[str], code: int, word: str) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
