"""Clients that speak HTTP and WebSocket by hand, as no library would let them."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import urllib.request
from collections.abc import Callable

from streamer_harness import ServerProcess

from streamer.protocol import SUBPROTOCOL

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
