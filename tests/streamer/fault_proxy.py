"""A TCP proxy that harms what servers send: delays, cuts, resets, flipped bits, other servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

READ_BYTES = 1 << 16
CLOSE_SECONDS = 10.0


@dataclass(frozen=True)
class Toxics:
    """What happens to the bytes that the server of one connection sends; all of it at once."""

    latency_seconds: float = 0.0
    """Age at which bytes are passed on, however many are under way."""
    bytes_per_second: float = 0.0
    """Rate; 0 is as fast as can be."""
    slice_bytes: int = 0
    """Size of the pieces in which they are sent; 0 is as they come."""
    marker: bytes = b""
    """The numbers below count from where this first comes; from the first byte if it is empty."""
    flip_at_byte: int | None = None
    """Byte of which one bit is flipped."""
    stall_after_bytes: int | None = None
    """Nothing more is passed on, and nothing is closed."""
    reset_after_bytes: int | None = None
    """The client gets a RST."""
    close_after_bytes: int | None = None
    """The client gets a clean end."""


class FaultProxy:
    """Leads connection i to port i modulo their number, and does `harm(i)` to it."""

    def __init__(
        self,
        ports: Sequence[int],
        harm: Callable[[int], Toxics] = lambda number: Toxics(),
        *,
        prefix: str = "",
    ) -> None:
        """`prefix` is what comes before a path here and is taken away for the server."""
        self.ports, self.harm, self.prefix = ports, harm, prefix.encode()
        self.num_connections = 0
        self.num_faults = 0
        """Flips, stalls, resets and ends so far."""
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}{prefix}/ws"
        listening = asyncio.start_server(self._serve, sock=self._listener)
        asyncio.run_coroutine_threadsafe(listening, self._loop).result(CLOSE_SECONDS)

    def close(self) -> None:
        """Cuts all connections and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()

    def cut(self) -> None:
        """Ends the connections of now."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def _stop(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        tasks = self._tasks.copy()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.num_connections = self.num_connections, self.num_connections + 1
        ends, passing = [writer], []
        try:
            port = self.ports[number % len(self.ports)]
            source, sink = await asyncio.open_connection("127.0.0.1", port)
            ends.append(sink)
            delivery = Delivery(self, self.harm(number), writer)
            passing = [self._loop.create_task(self._pass_on(reader, sink))]
            passing.append(self._loop.create_task(delivery.run(source)))
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # no server, or the end of the proxy
        finally:
            for one in passing:
                one.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            for end in ends:
                end.close()
            self._tasks.discard(task)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        prefix = self.prefix
        while data := await source.read(READ_BYTES):
            sink.write(data.replace(b" " + prefix + b"/", b" /", 1) if prefix else data)
            prefix = b""
            await sink.drain()


class Delivery:
    """The way from one server to one client."""

    def __init__(self, proxy: FaultProxy, toxics: Toxics, client: asyncio.StreamWriter) -> None:
        self._proxy, self._toxics, self._client = proxy, toxics, client
        client.transport.set_write_buffer_limits(0)
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        self._num_sent = 0
        self._origin = None if toxics.marker else 0
        self._seen = b""

    async def run(self, source: asyncio.StreamReader) -> None:
        """Delivers until the source ends or a fault ends it."""
        reading = asyncio.create_task(self._read(source))
        try:
            with contextlib.suppress(OSError):
                await self._deliver()
        finally:
            reading.cancel()

    async def _read(self, source: asyncio.StreamReader) -> None:
        data, loop = b" ", asyncio.get_running_loop()
        while data:
            try:
                data = await source.read(READ_BYTES)
            except OSError:
                data = b""
            await self._queue.put((loop.time() + self._toxics.latency_seconds, data))

    async def _deliver(self) -> None:
        toxics, loop = self._toxics, asyncio.get_running_loop()
        due = loop.time()
        while True:
            ready, data = await self._queue.get()
            if not data:
                return
            await asyncio.sleep(ready - loop.time())
            size = toxics.slice_bytes or len(data)
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                if await self._send(piece):
                    return
                if toxics.bytes_per_second:
                    due = max(due, loop.time()) + len(piece) / toxics.bytes_per_second
                await asyncio.sleep(due - loop.time())

    async def _send(self, piece: bytes) -> bool:
        """Sends a piece with its harm; returns whether that was the connection's end."""
        toxics, start = self._toxics, self._num_sent
        self._find_origin(piece)
        self._num_sent += len(piece)
        if self._origin is None:
            await self._write(piece)
            return False
        place = toxics.flip_at_byte
        if place is not None and start <= (place := self._origin + place) < self._num_sent:
            damaged = bytearray(piece)
            damaged[place - start] ^= 1 << place % 8
            piece = bytes(damaged)
            self._proxy.num_faults += 1
        ends = (toxics.stall_after_bytes, toxics.reset_after_bytes, toxics.close_after_bytes)
        known = [self._origin + end for end in ends if end is not None]
        if not known or min(known) > self._num_sent:
            await self._write(piece)
            return False
        await self._write(piece[: max(0, min(known) - start)])
        self._proxy.num_faults += 1
        if toxics.stall_after_bytes is not None:
            await asyncio.get_running_loop().create_future()
        if toxics.reset_after_bytes is not None:
            self._reset()
        return True

    def _find_origin(self, piece: bytes) -> None:
        if self._origin is None:
            seen = self._seen + piece
            place = seen.find(self._toxics.marker)
            if place >= 0:
                self._origin = self._num_sent - len(self._seen) + place
            self._seen = seen[-len(self._toxics.marker) :]

    async def _write(self, piece: bytes) -> None:
        self._client.write(piece)
        await self._client.drain()

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        connection = self._client.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._client.transport.abort()
