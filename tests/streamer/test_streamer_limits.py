"""Every row of the table of limits in streamer/protocol.py, and that the others do not suffer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from streamer_forks import fork
from streamer_harness import ServerProcess, Socket, ask, epoch, sha256, talk

from streamer.cli import main
from streamer.client import StreamClient
from streamer.errors import RequestError
from streamer.messages import parse_flat
from streamer.protocol import SUBPROTOCOL

Start = Callable[..., ServerProcess]
WAIT_SECONDS = 20.0
TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9


class RawSocket:
    """A WebSocket whose every byte is the test's own; reads nothing unless told to."""

    def __init__(self, port: int, protocol: str = SUBPROTOCOL, buffer_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: %b\r\n\r\n" % protocol.encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert b"101" in head.splitlines()[0]

    def send(self, content: bytes, opcode: int = TEXT, *, first: int = 0x80) -> None:
        """A frame with a mask of zeros; `first` holds the bits FIN and RSV."""
        size = len(content)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 1 << 16:
            length = b"\xfe" + struct.pack(">H", size)
        else:
            length = b"\xff" + struct.pack(">Q", size)
        self.socket.sendall(bytes([first | opcode]) + length + bytes(4) + content)

    def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and content."""
        first, second = self._read(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        return first & 0x0F, self._read(size)

    def close_code(self) -> int:
        """The code that the server closes with, whatever it sends before."""
        while True:
            opcode, content = self.receive()
            if opcode == CLOSE:
                return int(struct.unpack(">H", content[:2])[0])

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            chunk = self.socket.recv(size - len(content))
            if not chunk:
                raise EOFError
            content += chunk
        return content


def wait_for_end(connection: socket.socket) -> bytes:
    """What a server sends until it cuts a connection off."""
    connection.settimeout(WAIT_SECONDS)
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            received += chunk
    return received


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS)


def get(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def metric(server: ServerProcess, name: str) -> float:
    for line in get(server, "/metrics").splitlines():
        if line.startswith(f"streamer_{name} "):
            return float(line.split()[-1])
    return 0.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def small(corpus: Path, cache_dir: Path) -> Iterator[ServerProcess]:
    """A server that allows little."""
    limits = ["control_bytes=2000", "tokenizer_bytes=4000", "errors=5", "send_seconds=2"]
    process = ServerProcess(
        corpus, cache_dir, *(f"--limit={limit}" for limit in limits), start=fork
    )
    yield process
    process.kill()


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"tokenizer","json":"{\\"a\\": [1, \\u00e9]}"}',
        ' {"op" : "tokenizer" ,\n"id": -7, "x": null, "y":true}\r\n'.strip(),
        json.dumps({"op": "tokenizer", "json": json.dumps({"vocab": {"\u6c34\n": [1]}})}),
    ],
)
def test_long_messages_are_read_as_json_reads_them(text: str) -> None:
    assert parse_flat(text) == json.loads(text)


NOT_FLAT = ["", "{", "{}", "[]", '{"a":[]}', '{"a":{}}', '{"a":1.5}', '{"a":1}x', '{"a":"b}']
NOT_FLAT += ['{"a" 1}', '{"a":1,}', '{"a":"\t"}', "{a:1}", '{"a":' + "9" * 5000 + "}"]


@pytest.mark.parametrize("text", NOT_FLAT)
def test_long_messages_that_are_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_flat(text)
    assert caught.value.code == "bad_request"


@dataclass(frozen=True)
class Row:
    """A limit that one message is beyond."""

    message: str
    """What is sent."""
    code: str
    """The error's code."""
    field: str = ""
    """The field that is to blame."""


def page_request(**changes: Any) -> str:
    message: dict[str, Any] = {"op": "text", "split": "train", "fraction": 0.0, "salt": ""}
    return json.dumps(message | {"max_documents": 1, "max_bytes": 1} | changes)


ERRORS = {
    "control_bytes": Row('{"op":"info","x":"' + "x" * 2000 + '"}', "limit"),
    "tokenizer_bytes": Row('{"op":"tokenizer","json":"' + "x" * 4001 + '"}', "limit", "json"),
    "no JSON": Row("{", "bad_request"),
    "deep JSON": Row("[" * 1999, "bad_request"),
    "deep JSON in a tokenizer": Row("[" * 7000, "bad_request"),
    "many lists in a tokenizer": Row('{"op":"tokenizer","json":[' + "[]," * 2000, "bad_request"),
    "credit of one message": Row(
        '{"op":"credit","stream":1,"batches":65}', "bad_request", "batches"
    ),
    "documents of a page": Row(page_request(max_documents=10_001), "bad_request", "max_documents"),
    "bytes of a page": Row(page_request(max_bytes=(8 << 20) + 1), "bad_request", "max_bytes"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_message_beyond_a_limit(small: ServerProcess, name: str) -> None:
    async def speech(socket: Socket) -> None:
        row = ERRORS[name]
        reply = await ask(socket, row.message)
        assert (reply["op"], reply["code"], reply["field"]) == ("error", row.code, row.field)
        assert reply["retry"] is False
        assert (await ask(socket, {"op": "info"}))["limits"]["control_bytes"] == 2000

    talk(small.url, speech)


OPENINGS = {
    "batch": Row('{"batch":65537}', "bad_request", "batch"),
    "world": Row('{"world":65537}', "bad_request", "world"),
    "credit": Row('{"credit":65}', "bad_request", "credit"),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_an_opening_beyond_a_limit(
    server: ServerProcess, opening: dict[str, Any], name: str
) -> None:
    async def speech(socket: Socket) -> None:
        row = OPENINGS[name]
        reply = await ask(socket, opening | json.loads(row.message))
        assert (reply["code"], reply["field"]) == (row.code, row.field)

    talk(server.url, speech)


def test_bytes_of_a_batch(server: ServerProcess, opening: dict[str, Any]) -> None:
    async def speech(socket: Socket) -> None:
        plan = opening["plan"] | {"sequence_length": 1 << 12}
        reply = await ask(socket, opening | {"plan": plan, "batch": 1 << 14})
        assert (reply["code"], reply["field"]) == ("limit", "batch")

    talk(server.url, speech)


def test_streams_and_credit_in_sum(server: ServerProcess, opening: dict[str, Any]) -> None:
    async def speech(socket: Socket) -> None:
        for stream in range(16):
            reply = await ask(socket, opening | {"stream": stream, "credit": 0})
            assert reply["op"] == "opened"
        reply = await ask(socket, opening | {"stream": 16})
        assert (reply["code"], reply["field"], reply["stream"]) == ("limit", "stream", 16)
        await socket.send_json({"op": "close", "stream": 3})
        assert (await ask(socket, opening | {"stream": 16, "credit": 0}))["op"] == "opened"
        await socket.send_json({"op": "open"} | opening | {"stream": 3, "credit": 64, "batch": 1})

    talk(server.url, speech)

    async def greedy(socket: Socket) -> None:
        assert (await ask(socket, opening | {"stream": 1, "credit": 0}))["op"] == "opened"
        await socket.send_json({"op": "credit", "stream": 1, "batches": 64})
        await socket.send_json({"op": "credit", "stream": 1, "batches": 64})
        while isinstance(message := (await socket.receive()).data, bytes):
            pass
        reply = json.loads(message)
        assert (reply["code"], reply["field"]) == ("limit", "batches")

    talk(server.url, greedy)


def test_messages_to_streams_that_are_not_open(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        for _ in range(65):
            await socket.send_json({"op": "credit", "stream": 5, "batches": 1})
        reply = await ask(socket, {"op": "info"})
        assert (reply["code"], reply["field"]) == ("bad_request", "stream")

    talk(server.url, speech)


def test_requests_at_once(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        for number in range(200):
            await socket.send_json({"op": "info", "id": number})
        while (reply := json.loads(await socket.receive_str()))["op"] == "info":
            pass
        assert (reply["code"], reply["retry"]) == ("busy", True)

    talk(server.url, speech)


def test_a_document_that_no_message_holds(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "x" * (57 << 20)}) + "\n")
    server = start_server(tmp_path / "long.jsonl")

    async def speech(socket: Socket) -> None:
        reply = await ask(socket, page_request())
        assert (reply["code"], reply["field"]) == ("limit", "max_bytes")

    talk(server.url, speech)


def bomb(raw: RawSocket) -> None:
    raw.send(b'"', TEXT, first=0)
    with contextlib.suppress(ConnectionError):
        for _ in range(9):
            raw.send(b"x" * 1000, CONTINUATION, first=0)


CLOSES: dict[str, tuple[Callable[[RawSocket], None], int]] = {
    "frames against RFC 6455": (lambda raw: raw.send(b"{}", first=0xF0), 1002),
    "an unknown kind of frame": (lambda raw: raw.send(b"{}", opcode=3), 1002),
    "a binary message": (lambda raw: raw.send(b"{}", BINARY), 1003),
    "text that is no UTF-8": (lambda raw: raw.send(b'{"op":"\xff\xfe"}'), 1007),
    "a message in one piece": (lambda raw: raw.send(b"x" * 8001), 1009),
    "a message in many pieces": (bomb, 1009),
    "errors": (lambda raw: [raw.send(b"{") for _ in range(5)] and None, 1008),
}


@pytest.mark.parametrize("name", CLOSES)
def test_what_ends_a_connection(small: ServerProcess, name: str) -> None:
    misbehave, code = CLOSES[name]
    before = metric(small, 'refused_total{reason="bad_client"}')
    raw = RawSocket(small.port)
    misbehave(raw)
    assert raw.close_code() == code
    raw.socket.close()
    wait_until(lambda: metric(small, 'refused_total{reason="bad_client"}') == before + 1)


@pytest.mark.parametrize("protocols", [("babygpt.stream.v9",), ("x", "y")])
def test_an_unknown_subprotocol(small: ServerProcess, protocols: tuple[str, ...]) -> None:
    async def speech(socket: Socket) -> None:
        reply = json.loads(await socket.receive_str())
        assert (reply["op"], reply["code"]) == ("error", "bad_request")
        assert SUBPROTOCOL in reply["message"]
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1002

    talk(small.url, speech, protocols)


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_connections(start_server: Start, corpus: Path, cache_dir: Path, limit: str) -> None:
    server = start_server(corpus, f"--limit={limit}=2", cache_dir=cache_dir)

    async def fill(_: Socket) -> None:
        async with aiohttp.ClientSession() as session:
            second = await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            assert caught.value.status == 503
            assert caught.value.headers is not None
            assert int(caught.value.headers["Retry-After"]) > 0
            await second.close()

    talk(server.url, fill)
    with StreamClient([server.url], deadline_seconds=20) as client:
        assert client.info()["limits"][limit] == 2
    assert metric(server, f'refused_total{{reason="{limit}"}}') == 1


def drip(connection: socket.socket) -> None:
    """Sends a header byte by byte until it is cut off."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(b"x")


def post(connection: socket.socket) -> None:
    connection.sendall(b"POST /healthz HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")


@pytest.mark.parametrize("behaviour", [lambda _: None, drip, post], ids=["silent", "drip", "body"])
def test_handshake_seconds(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    behaviour: Callable[[socket.socket], None],
) -> None:
    server = start_server(corpus, "--limit=handshake_seconds=1", cache_dir=cache_dir)
    with connect(server) as slow:
        behaviour(slow)
        wait_for_end(slow)
    assert get(server, "/healthz") == "ok\n"


def test_unfinished_connections_do_not_lock_anybody_out(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    server = start_server(corpus, "--limit=unfinished=128", cache_dir=cache_dir)
    with contextlib.ExitStack() as held, StreamClient([server.url], deadline_seconds=30) as client:
        silent = [held.enter_context(connect(server)) for _ in range(500)]
        client.upload_tokenizer(tokenizer_json)
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        assert wait_for_end(silent[0]) == b""
    assert metric(server, 'refused_total{reason="unfinished"}') >= 500 - 128
    status = Path(f"/proc/{server.process.pid}/fd")
    if status.exists():
        wait_until(lambda: len(os.listdir(status)) < 200)


NO_HTTP = {
    "nonsense": b"\x00\xff" * 2000 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n",
    "a long line": b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http(small: ServerProcess, name: str) -> None:
    before = metric(small, 'refused_total{reason="bad_http"}')
    with connect(small) as connection:
        connection.sendall(NO_HTTP[name])
        assert b"400 Bad Request" in wait_for_end(connection).splitlines()[0]
    assert metric(small, 'refused_total{reason="bad_http"}') == before + 1


def test_failures_have_to_wait(start_server: Start, corpus: Path, cache_dir: Path) -> None:
    limits = ["--limit=failures_per_second=3", "--limit=failures_at_once=3"]
    server = start_server(corpus, *limits, cache_dir=cache_dir)
    began = time.monotonic()
    for _ in range(7):
        with connect(server) as connection:
            connection.sendall(b"NONSENSE\r\n\r\n")
            wait_for_end(connection)
    assert time.monotonic() - began > 1
    assert get(server, "/healthz") == "ok\n"


def test_send_seconds_of_clients_that_do_not_read(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    opening: dict[str, Any],
    tokenizer_json: str,
) -> None:
    """Each could be owed 64 batches of 2 MB, of which the server keeps but a few."""
    server = start_server(corpus, "--limit=send_seconds=2", cache_dir=cache_dir)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
    memory = Path(f"/proc/{server.process.pid}/statm")
    before = int(memory.read_text().split()[1]) * 4096
    large = json.dumps(opening | {"batch": 16_384, "credit": 64}).encode()
    raws = [RawSocket(server.port, buffer_bytes=1 << 16) for _ in range(8)]
    for raw in raws:
        raw.send(large)
    wait_until(lambda: metric(server, "streams_open") == 8)
    largest = 0
    while metric(server, 'connections_open{protocol="v2"}'):
        largest = max(largest, int(memory.read_text().split()[1]) * 4096 - before)
        time.sleep(0.1)
    assert largest < 8 * 4 * (8 << 20)
    for raw in raws:
        raw.socket.close()


def test_heartbeat_seconds(start_server: Start, corpus: Path, cache_dir: Path) -> None:
    server = start_server(corpus, "--limit=heartbeat_seconds=0.5", cache_dir=cache_dir)
    raw = RawSocket(server.port)
    assert raw.receive()[0] == PING
    wait_for_end(raw.socket)
    raw.socket.close()
    assert metric(server, 'connections_open{protocol="v2"}') == 0


def test_pings_are_answered(small: ServerProcess) -> None:
    raw = RawSocket(small.port)
    for number in range(50):
        raw.send(b"%d" % number, PING)
    assert [raw.receive() for _ in range(50)] == [(10, b"%d" % number) for number in range(50)]
    raw.socket.close()


def test_bad_clients_change_nothing_for_a_good_one(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    server = start_server(corpus, cache_dir=cache_dir)

    async def misbehave(number: int, session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            socket = await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            for _ in range(20):
                await socket.send_str("garbage" if number % 2 else "[" * 3000)
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            await socket.close()

    async def all_misbehave() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(misbehave(number, session) for number in range(100)))

    with StreamClient([server.url], deadline_seconds=30) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2)
        batches = [next(stream)]
        asyncio.run(all_misbehave())
        assert sha256([*batches, *stream]) == reference
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.errors


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("conections=1", "did you mean connections?"),
        ("connections=1.5", "connections is a whole number"),
        ("connections=0", "connections must be above 0"),
        ("send_seconds=nan", "send_seconds must be above 0"),
        ("errors", "errors is a whole number"),
    ],
)
def test_limits_that_are_none(
    setting: str, message: str, corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(corpus), "--limit", setting]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
