"""Who is let in, and that no secret is ever shown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import REPOSITORY, ServerProcess, Socket, ask, epoch, sha256, talk
from token_servers import OTHER_TOKEN, TOKEN, WRONG_TOKEN, Start, fetch

from streamer.access import (
    AccessError,
    Tokens,
    new_token,
    read_tokens,
    without_secrets,
)
from streamer.cli import main
from streamer.client import StreamClient, StreamError
from streamer.embedded import EmbeddedStreamer


@pytest.mark.parametrize("path", ["/", "/ws", "/metrics", "/status.json", "/absent"])
def test_everything_asks_for_a_token(start: Start, token_file: Path, path: str) -> None:
    server = start(f"--token-file={token_file}")
    url = f"http://127.0.0.1:{server.port}{path}"
    expected = {"/ws": 400, "/absent": 404}.get(path, 200)
    for headers in ({}, {"Authorization": f"Bearer {WRONG_TOKEN}"}, {"Authorization": TOKEN}):
        status, answered = fetch(url, headers)
        assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
    assert fetch(f"{url}?token={WRONG_TOKEN}")[0] == 401
    assert fetch(f"{url}?token={TOKEN}", {"Authorization": f"Bearer {WRONG_TOKEN}"})[0] == 401
    for token in (TOKEN, OTHER_TOKEN):
        assert fetch(url, {"Authorization": f"Bearer {token}"})[0] == expected
        assert fetch(url, {"Authorization": f"bearer  {token}"})[0] == expected
        assert fetch(f"{url}?token={token}")[0] == expected
    assert fetch(f"http://127.0.0.1:{server.port}/healthz")[0] == 200
    assert TOKEN not in server.log.read_text()


def test_clients_and_tokens(
    start: Start,
    token_file: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start(f"--token-file={token_file}")
    with StreamClient([server.url], TOKEN, deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
    monkeypatch.setenv("BABYGPT_STREAM_TOKEN", OTHER_TOKEN)
    with StreamClient([server.url], deadline_seconds=20) as client:
        assert client.info()["op"] == "info"
    for token in (WRONG_TOKEN, ""):
        with StreamClient([server.url], token, deadline_seconds=20) as client:
            with pytest.raises(StreamError, match=r"data\.token_file") as caught:
                client.info()
            assert caught.value.code == "unauthorized"
            assert WRONG_TOKEN not in str(caught.value)
    with pytest.raises(StreamError, match="no blanks"):
        StreamClient([server.url], "a token\r\nX: y")
    assert not any(token in server.log.read_text() for token in (TOKEN, OTHER_TOKEN, WRONG_TOKEN))


def test_a_token_in_the_address_is_not_shown(start: Start, token_file: Path) -> None:
    server = start(f"--token-file={token_file}")

    async def speech(socket: Socket) -> None:
        assert (await ask(socket, {"op": "info"}))["op"] == "info"
        assert (await ask(socket, {"op": "nonsense"}))["op"] == "error"

    talk(f"{server.url}?token={TOKEN}", speech)
    url = f"{server.url}?token={WRONG_TOKEN}"
    with StreamClient([url], deadline_seconds=20) as client, pytest.raises(StreamError) as caught:
        client.info()
    absent_url = "ws://me:secret@127.0.0.1:1/ws?token=x"
    with (
        StreamClient([absent_url], deadline_seconds=0.5) as client,
        pytest.raises(StreamError) as absent,
    ):
        client.info()
    assert WRONG_TOKEN not in str(caught.value)
    assert "secret" not in str(absent.value)
    assert "token=" not in str(absent.value)
    server.wait_for("disconnected")
    assert TOKEN not in server.log.read_text()


def test_tokens_are_rotated_without_a_restart(start: Start, token_file: Path) -> None:
    server = start(f"--token-file={token_file}")
    with StreamClient([server.url], TOKEN, deadline_seconds=20) as client:
        client.info()
        token_file.write_text("short\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload_failed")
        client.info()
        token_file.write_text(f"{WRONG_TOKEN}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reloaded tokens=1")
        with pytest.raises(StreamError, match="token"):
            client.info()
    with StreamClient([server.url], WRONG_TOKEN, deadline_seconds=20) as client:
        client.info()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "holds 0 tokens"),
        ("# nothing\n\n", "holds 0 tokens"),
        (f"{TOKEN}\nshort\n", "line 2: a token has 16 to"),
        ("sixteen characters\n", "line 1"),
        ("sixteen-characters-\u00e9\n", "line 1"),
        ("x" * 513, "line 1"),
        (b"\xff\xfe" * 20, "is not UTF-8"),
    ],
)
def test_token_files_that_are_refused(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AccessError, match=message) as caught:
        read_tokens(path)
    assert TOKEN not in str(caught.value)


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, corpus: Path) -> None:
    command = [sys.executable, "-m", "streamer", "--source", str(corpus), "--port=0"]
    command += ["--cache-dir", str(tmp_path), "--token-file", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("--token-file ")
    assert done.stderr.count("\n") == 1


def test_a_token_file_that_others_can_read(start: Start, token_file: Path) -> None:
    token_file.chmod(0o644)
    server = start(f"--token-file={token_file}")
    assert "chmod 600" in server.log.read_text()


def test_tokens_by_themselves(token_file: Path) -> None:
    tokens = Tokens(token_file, own=WRONG_TOKEN)
    assert len(tokens) == 3
    assert all(tokens.match(token) for token in (TOKEN, OTHER_TOKEN, WRONG_TOKEN))
    assert not any(tokens.match(token) for token in ("", TOKEN[:-1], TOKEN + " ", "\ud800"))
    assert new_token() != new_token()
    assert without_secrets("wss://me:pass@host:1/a?token=x#y") == "wss://host:1/a"
    assert without_secrets("host/?token=x") == "host/"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/", {"Host": "localhost:9"}, 200),
        ("/status.json", {"Host": "[::1]"}, 200),
        ("/", {"Host": "evil.example:8000"}, 403),
        ("/metrics", {"Host": "evil.example"}, 403),
        ("/", {"Origin": "http://evil.example"}, 403),
        ("/healthz", {"Host": "10.0.0.7:8000"}, 200),
        ("/ws", {"Host": "balancer.example"}, 400),  # no WebSocket, but let in
        ("/ws", {"Origin": "http://127.0.0.1:8000"}, 400),
        ("/ws", {"Origin": "https://evil.example", "Host": "evil.example"}, 403),
        ("/ws", {"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(
    server: ServerProcess, path: str, headers: dict[str, str], status: int
) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
        error.close()
    assert found == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_open_address_asks_for_tokens(
    host: str, corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(corpus), "--host", host]) == 2
    error = capfd.readouterr().err
    assert "--token-file" in error
    assert error.count("\n") == 1


def test_an_embedded_streamer_of_one_s_own(
    corpus: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABYGPT_STREAM_TOKEN", WRONG_TOKEN)
    token = new_token()
    with EmbeddedStreamer([str(corpus)], token=token, cache_dir=cache_dir) as embedded:
        with StreamClient([embedded.url], embedded.token, deadline_seconds=20) as client:
            client.info()
        with StreamClient([embedded.url], "", deadline_seconds=20) as other:
            with pytest.raises(StreamError) as caught:
                other.info()
            assert caught.value.code == "unauthorized"


def test_ipv6(start: Start) -> None:
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    server = start("--host=::1")
    assert server.url == f"ws://[::1]:{server.port}/ws"
    with StreamClient([server.url], deadline_seconds=20) as client:
        assert client.info()["op"] == "info"
    server.wait_for("peer=[::1]:")


def test_an_address_that_is_not_ours(corpus: Path, cache_dir: Path) -> None:
    command = [sys.executable, "-m", "streamer", f"--source={corpus}", "--port=0", "--insecure"]
    command += ["--host=192.0.2.1", f"--cache-dir={cache_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith("; choose another --host")
