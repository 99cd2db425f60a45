"""Who is let in, over what kind of connection, and that no secret is ever shown."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from streamer_forks import fork
from streamer_harness import REPOSITORY, ServerProcess, Socket, ask, epoch, sha256, talk

from streamer.access import (
    AccessError,
    Tokens,
    new_token,
    read_tokens,
    server_context,
    without_secrets,
)
from streamer.cli import main
from streamer.client import StreamClient, StreamError
from streamer.embedded import EmbeddedStreamer

TOKEN = "correct-horse-battery-staple"
OTHER_TOKEN = "another-horse-battery-staple"
WRONG_TOKEN = "correct-horse-battery-stapler"


class Server:
    """A streamer with any options, whose log can be read while it runs."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            names = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
            self.process = fork(["--port=0", *arguments], names, stderr=log)
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline().decode() if ready else ""
        assert line.startswith("listening on "), line + self.log.read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


Start = Callable[..., Server]


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


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


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
    command += ["--token-file", str(tmp_path / "absent")]
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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and one of elsewhere, each with its key."""
    folder = tmp_path_factory.mktemp("tls")
    for name, subject in (("here", "IP:127.0.0.1"), ("elsewhere", "DNS:example.org")):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", f"subjectAltName={subject}"]
        command += ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    command = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", f"{folder}/here.key"]
    command += ["-out", f"{folder}/locked.key"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def secure(folder: Path, name: str) -> list[str]:
    return [f"--tls-cert={folder}/{name}.pem", f"--tls-key={folder}/{name}.key"]


def test_tls(
    start: Start,
    certificates: Path,
    token_file: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    server = start(*secure(certificates, "here"), f"--token-file={token_file}")
    assert server.url == f"wss://127.0.0.1:{server.port}/ws"
    authority = certificates / "here.pem"
    with StreamClient([server.url], TOKEN, ca_file=authority, deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
    with StreamClient([server.url], TOKEN, deadline_seconds=60) as client:
        with pytest.raises(StreamError, match=r"self-signed certificate.*data\.ca_file") as caught:
            client.info()
        assert caught.value.code == "refused"
    plain = server.url.replace("wss:", "ws:")
    with StreamClient([plain], TOKEN, deadline_seconds=1) as client, pytest.raises(StreamError):
        client.info()


def test_tls_of_another_host_and_reload(start: Start, certificates: Path, tmp_path: Path) -> None:
    for kind in ("key", "pem"):
        (tmp_path / f"x.{kind}").write_bytes((certificates / f"elsewhere.{kind}").read_bytes())
    server = start(*secure(tmp_path, "x"))
    elsewhere = certificates / "elsewhere.pem"
    with StreamClient([server.url], ca_file=elsewhere, deadline_seconds=60) as client:
        with pytest.raises(StreamError, match="not to be trusted") as caught:
            client.info()
        assert caught.value.code == "refused"
    for kind in ("key", "pem"):
        (tmp_path / f"x.{kind}").write_bytes((certificates / f"here.{kind}").read_bytes())
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("reloaded")
    here = certificates / "here.pem"
    with StreamClient([server.url], ca_file=here, deadline_seconds=20) as client:
        client.info()
    (tmp_path / "x.key").write_text("broken")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("reload_failed")
    with StreamClient([server.url], ca_file=here, deadline_seconds=20) as client:
        client.info()


def test_old_tls_and_no_tls_are_refused(start: Start, certificates: Path) -> None:
    server = start(*secure(certificates, "here"), "--limit=handshake_seconds=2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", server.port), 20) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection)
    with socket.create_connection(("127.0.0.1", server.port), 20) as silent:
        assert silent.recv(10) == b""


def test_wss_to_a_plain_server(server: ServerProcess) -> None:
    url = server.url.replace("ws:", "wss:")
    with StreamClient([url], deadline_seconds=60) as client:
        with pytest.raises(StreamError, match="is it wss://") as caught:
            client.info()
        assert caught.value.code == "refused"


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("absent.pem", "here.key", "--tls-cert"),
        ("here.pem", "absent.key", "--tls-key"),
        ("here.pem", "elsewhere.key", "do not belong together"),
        ("here.key", "here.key", "must be PEM files"),
        ("here.pem", "locked.key", "is encrypted"),
    ],
)
def test_certificates_that_are_refused(
    certificates: Path, certificate: str, key: str, message: str
) -> None:
    with pytest.raises(AccessError, match=message):
        server_context(certificates / certificate, certificates / key)


def test_a_certificate_without_key(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(corpus), "--tls-cert=x"]) == 2
    assert "give both" in capfd.readouterr().err


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(StreamError, match=name) as caught:
            StreamClient(["wss://127.0.0.1:1/ws"], ca_file=tmp_path / name)
        assert (caught.value.code, caught.value.field) == ("refused", "ca_file")


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


def test_a_log_of_json(start: Start, token_file: Path) -> None:
    server = start("--log-format=json", f"--token-file={token_file}")

    async def speech(socket: Socket) -> None:
        assert (await ask(socket, {"op": "nonsense"}))["op"] == "error"

    talk(f"{server.url}?token={TOKEN}", speech)
    server.wait_for("disconnected")
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    names = " ".join(line["event"] for line in lines)
    assert names == "source listening connected error disconnected stopping stopped"
    assert all({"ts", "level", "event"} <= line.keys() for line in lines)
    error, disconnected = lines[3], lines[4]
    assert (error["level"], error["code"], error["field"]) == ("info", "bad_request", "op")
    assert disconnected["peer"] == error["peer"]
    assert (disconnected["protocol"], disconnected["code"]) == ("v2", 1000)
    assert TOKEN not in server.log.read_text()


def test_the_log_of_a_stream(start: Start, plan: dict[str, Any], tokenizer_json: str) -> None:
    server = start("--log-format=json")
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3)
        for _ in range(20):
            next(stream)
    server.wait_for("stream_ended")
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (opened,) = (line for line in lines if line["event"] == "stream_opened")
    (ended,) = (line for line in lines if line["event"] == "stream_ended")
    assert (opened["plan"], opened["split"], opened["batch"]) == (stream.plan_id, "train", 3)
    assert ended["peer"] == opened["peer"]
    assert ended["tokens"] > 0


def test_a_flood_of_equal_lines_is_counted(start: Start) -> None:
    server = start("--limit=errors=1000")

    async def speech(socket: aiohttp.ClientWebSocketResponse) -> None:
        for _ in range(300):
            await socket.send_str("{")
        for _ in range(300):
            await socket.receive_str()

    talk(server.url, speech)
    server.stop()
    lines = server.log.read_text().splitlines()
    assert sum("suppressed of=error lines=" in line for line in lines) >= 1
    assert len(lines) < 150
