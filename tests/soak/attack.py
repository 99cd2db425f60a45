"""A process of its own that attacks a server while told to: `on`, `off`, and what it cost.

Started with the port as argument and the `open` message of who never reads as the first line of
standard input. Each attacker tries at most once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

NUM_UNFINISHED, NUM_GARBAGE = 500, 100
ATTEMPT_SECONDS = 1.0
REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: babygpt.stream.v2\r\n\r\n"
)
BAD_HTTP = (b"GET /ws\0 HTTP/9.9\r\n\r\n", b"GET /ws HTTP/1.1\r\nX: " + b"a" * 20_000)
BAD_FRAMES = (b"\xff\xff" + b"\xff" * 30, b"\x83\x80\0\0\0\0", b"\x81\x05hello")


def text_frame(text: bytes) -> bytes:
    """A WebSocket frame as a client sends it, with a mask that changes nothing."""
    return b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text


class Attack:
    """All attackers of one server."""

    def __init__(self, port: int, opening: bytes) -> None:
        self.counts: Counter[str] = Counter()
        self._port = port
        self._opening = opening
        self._random = random.Random(5)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Sends them all, over the first second."""
        attackers = [self._never_finish] * NUM_UNFINISHED + [self._never_read]
        attackers += [
            (self._noise, self._bad_http, self._bad_frames)[i % 3] for i in range(NUM_GARBAGE)
        ]
        self._tasks = [asyncio.create_task(self._repeat(attacker)) for attacker in attackers]

    async def end(self) -> None:
        """Calls them all back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _repeat(
        self, attacker: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        await asyncio.sleep(self._random.random() * ATTEMPT_SECONDS)
        while True:
            began = time.monotonic()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                self.counts[attacker.__name__.strip("_")] += 1
                try:
                    await attacker(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(max(0.0, began + ATTEMPT_SECONDS - time.monotonic()))

    async def _never_finish(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(self._random.choice((b"", REQUEST[:40])))
        await reader.read()

    async def _noise(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._random.randbytes(2000))
        await answer(reader)

    async def _bad_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._random.choice(BAD_HTTP))
        await answer(reader)

    async def _bad_frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._random.choice(BAD_FRAMES))
        await answer(reader)

    async def _never_read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text_frame(self._opening))
        while not writer.transport.is_closing():
            await asyncio.sleep(ATTEMPT_SECONDS)


async def answer(reader: asyncio.StreamReader) -> None:
    """Waits until the server has hung up, but not for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await reader.read()


async def main() -> None:
    """Does as it is told until standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    attack = Attack(int(sys.argv[1]), (await reader.readline()).strip())
    spent = sum(os.times()[:2])
    while line := (await reader.readline()).strip():
        if line == b"on":
            spent = sum(os.times()[:2])
            attack.begin()
        else:
            await attack.end()
            counts = " ".join(f"{name}={count}" for name, count in sorted(attack.counts.items()))
            print(f"{sum(os.times()[:2]) - spent:.2f} {counts}", flush=True)
            attack.counts.clear()
    await attack.end()


if __name__ == "__main__":
    asyncio.run(main())
