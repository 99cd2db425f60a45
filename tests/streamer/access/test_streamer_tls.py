"""TLS: who is whom, certificates that change, and what is refused."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import ServerProcess, epoch, sha256
from token_servers import TOKEN, Start

from streamer.access import (
    AccessError,
    server_context,
)
from streamer.cli import main
from streamer.client import StreamClient, StreamError


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
