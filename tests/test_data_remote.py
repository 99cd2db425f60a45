"""`data=remote`: a streamer of somebody else's, with a token."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from experiment_harness import QUIET, SECONDS, Outcome, read_rows

from babygpt_exp.data.addresses import shuffled
from babygpt_exp.data.config import SAMPLE

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def url(token_file: Path, tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server that asks for the token."""
    command = [sys.executable, "-m", "streamer", f"--source={SAMPLE}", "--port=0"]
    with subprocess.Popen(
        [*command, f"--token-file={token_file}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip()
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_a_run_sends_its_token_and_never_writes_it(
    babygpt: Callable[..., Outcome], url: str, token_file: Path
) -> None:
    done = babygpt(*QUIET, "data=remote", f"data.url={url}", f"data.token_file={token_file}")
    assert done.exit_code == 0, done.errors
    for path in done.folder.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_without_a_token_the_run_ends_with_one_line(
    babygpt: Callable[..., Outcome], url: str
) -> None:
    refused = babygpt(*QUIET, "data=remote", f"data.url={url}")
    assert refused.exit_code == 1
    assert "token" in refused.one_error_line()
    absent = babygpt(*QUIET, "data=remote", f"data.url={url}", "data.token_file=absent")
    assert absent.exit_code == 1
    assert "data.token_file" in absent.one_error_line()


def test_of_several_addresses_any_will_do(
    babygpt: Callable[..., Outcome], url: str, token_file: Path, tmp_path: Path
) -> None:
    options = ("data=remote", f"data.token_file={token_file}")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"ws://127.0.0.1:{closed.getsockname()[1]}/ws"
    curves = []
    for name, value in (("one", url), ("several", f"[{dead},{url}]")):
        done = babygpt(*QUIET, *options, f"data.url={value}", f"hydra.run.dir={tmp_path / name}")
        assert done.exit_code == 0, done.errors
        curves.append([row["train/loss"] for row in read_rows(tmp_path / name)])
    assert curves[0] == curves[1]
    changed = babygpt(f"resume={tmp_path / 'one'}", f"data.url=[{dead},{url}]")
    assert changed.exit_code == 0, changed.errors


def test_runs_spread_over_the_addresses() -> None:
    urls = [f"ws://{name}:8000/ws" for name in "abc"]
    orders = [shuffled(urls) for _ in range(200)]
    assert all(sorted(order) == urls for order in orders)
    assert {order[0] for order in orders} == {*urls}
