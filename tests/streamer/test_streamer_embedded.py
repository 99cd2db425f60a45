"""The command line and the embedded server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import REPOSITORY, ServerProcess, epoch, sha256

from streamer.cli import main
from streamer.client import StreamClient
from streamer.embedded import EmbeddedStreamer, EmbeddedStreamerError


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(process_id: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while is_alive(process_id) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(process_id)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--source"),
        (["--source", "a", "--sorce", "b"], 2, "--sorce"),
        (["--source", "a", "--port", "x"], 2, "--port"),
        (["--source", "a", "--port", "70000"], 2, "0 to 65535"),
        (["--source", "a", "--host", "0.0.0.0"], 2, "--insecure"),
        (["--source", "a", "--host", "::"], 2, "--insecure"),
        (["--source", "/absent"], 1, "source not found: /absent"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(arguments) == code
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--cache-dir" in capsys.readouterr().out


def test_a_taken_port_is_one_line(
    corpus: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--source", str(corpus), "--cache-dir", str(cache_dir), "--port", port]
        assert main(arguments) == 1
    assert "choose another --port" in capsys.readouterr().err


def test_ipv6_and_insecure_listen(start_server: Callable[..., ServerProcess], corpus: Path) -> None:
    server = start_server(corpus, "--host", "0.0.0.0", "--insecure")
    with StreamClient([server.url]) as client:
        assert client.info()["version"]


def test_embedded_serves_and_stops(
    corpus: Path,
    tmp_path: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    client: StreamClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From another folder that has a `streamer` of its own, and without HOME."""
    client.upload_tokenizer(tokenizer_json)
    reference = sha256(epoch(client, plan, 3))
    (tmp_path / "streamer.py").write_text("raise SystemExit('the wrong streamer')")
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    log = tmp_path / "logs" / "streamer.log"
    with EmbeddedStreamer([str(corpus)], log_path=log) as embedded:
        assert embedded._process is not None
        process_id = embedded._process.pid
        assert os.getsid(process_id) == process_id
        with StreamClient([embedded.url]) as own:
            own.upload_tokenizer(tokenizer_json)
            assert sha256(epoch(own, plan, 3)) == reference
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not is_alive(process_id)
    assert "tokens are kept in" in log.read_text()
    embedded.close()


@pytest.mark.parametrize("with_log", [True, False])
def test_embedded_says_why_it_did_not_start(with_log: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an earlier line\n")
    own_log = log if with_log else None
    embedded = EmbeddedStreamer(["/absent"], cache_dir=tmp_path, log_path=own_log)
    with pytest.raises(EmbeddedStreamerError) as caught, embedded:
        pass
    assert str(caught.value).startswith("source not found: /absent")
    assert log.read_text().startswith("an earlier line\n")


def test_embedded_start_has_a_deadline(corpus: Path, tmp_path: Path) -> None:
    embedded = EmbeddedStreamer([str(corpus)], cache_dir=tmp_path, startup_seconds=0.01)
    with pytest.raises(EmbeddedStreamerError, match="not ready within"), embedded:
        pass


SLOW_SERVER = """
import sys, time
for _ in range(5):
    time.sleep(0.25)
    print("listing", file=sys.stderr, flush=True)
print("listening on ws://127.0.0.1:1/ws", flush=True)
sys.stdin.read()
"""


def test_embedded_waits_for_one_that_lists_its_sources_still(tmp_path: Path) -> None:
    embedded = EmbeddedStreamer([], log_path=tmp_path / "log", startup_seconds=1.0)
    embedded._command = [sys.executable, "-c", SLOW_SERVER]
    with embedded:
        assert embedded.url == "ws://127.0.0.1:1/ws"


PARENT = """
import os, sys, time
from pathlib import Path
from streamer.embedded import EmbeddedStreamer
embedded = EmbeddedStreamer([sys.argv[1]], cache_dir=Path(sys.argv[2])).__enter__()
if sys.argv[3] == "forked" and os.fork() == 0:
    time.sleep(20)  # keeps the pipe open, as a worker of the parent would
print(embedded._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "number"),
    [("alone", signal.SIGKILL), ("forked", signal.SIGKILL), ("alone", signal.SIGTERM)],
)
def test_embedded_dies_with_its_parent(
    how: str, number: int, corpus: Path, cache_dir: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(corpus), str(cache_dir), how],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    process_id = int(parent.stdout.readline())
    assert is_alive(process_id)
    parent.send_signal(number)
    parent.wait(5)
    gone = wait_until_gone(process_id)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(parent.pid, signal.SIGKILL)
    assert gone


def test_embedded_ignores_interrupts(corpus: Path, cache_dir: Path) -> None:
    with EmbeddedStreamer([str(corpus)], cache_dir=cache_dir) as embedded:
        assert embedded._process is not None
        embedded._process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        with StreamClient([embedded.url]) as client:
            assert client.info()["version"]
