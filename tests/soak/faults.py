"""Phases in which servers die, or stand still, or the consumer does: the stream is the same."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator

from stage import FaultProxy, Server, Stage, Toxics
from streamer_harness import sha256

from streamer.client import Batch, Stream, StreamClient

NUM_RESTARTS = 5
DOWN_SECONDS = 3.0
GO_ON_SECONDS = 1.0
REPLICA_SECONDS, KILL_SECONDS = 60.0, 2.0
GIL_SECONDS = 40
STOP_SECONDS = 60.0
FAIL_OVER_SECONDS = 30.0
LINK_BYTES_PER_SECOND, LINK_LATENCY_SECONDS = 64_000.0, 0.2
LINK_BATCHES, MOST_UNUSED_PERCENT = 400, 20.0
START_SECONDS = 60.0


class Restart:
    """A server that is killed, and started again on its port, with a watcher of the port."""

    def __init__(self, stage: Stage, server: Server) -> None:
        self.opened: float | None = None
        self.server = server
        self._stage = stage
        server.kill()
        self.killed = time.monotonic()
        self._threads = [threading.Thread(target=work) for work in (self._start, self._watch)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits for the new server."""
        for thread in self._threads:
            thread.join(2 * START_SECONDS)

    def _start(self) -> None:
        time.sleep(DOWN_SECONDS)
        self.server = self._stage.server(port=self.server.port)

    def _watch(self) -> None:
        while time.monotonic() < self.killed + START_SECONDS:
            try:
                socket.create_connection(("127.0.0.1", self.server.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                self.opened = time.monotonic()
                return


def link(stage: Stage) -> None:
    """A slow line: how much of it is batches, once the first has come?"""
    toxics = Toxics(LINK_LATENCY_SECONDS, LINK_BYTES_PER_SECOND)
    server = stage.server()
    with (
        FaultProxy([server.port], lambda number: toxics) as proxy,
        StreamClient([proxy.url], deadline_seconds=60) as client,
    ):
        client.upload_tokenizer(stage.tokenizer_json)
        stream = stage.open(client)
        batches, began = [next(stream)], time.monotonic()
        batches += [next(stream) for _ in range(LINK_BATCHES)]
        seconds = time.monotonic() - began
        stream.close()
    rate = sum(batch.tokens.nbytes for batch in batches[1:]) / seconds
    unused = 100 * (1 - rate / LINK_BYTES_PER_SECOND)
    note = f"of {LINK_BYTES_PER_SECOND:g} bytes/s, {LINK_LATENCY_SECONDS} s away"
    stage.report.at_most("unused_percent", round(unused, 1), MOST_UNUSED_PERCENT, note)
    stage.check(sha256(batches), len(batches))


def restart(stage: Stage) -> None:
    """A killed server that is back after some seconds: how long until the next batch?"""
    waits: list[float] = []
    server = stage.server()
    batches = []
    with stage.client(server) as client:
        stream = stage.open(client, credit=2)
        batches += [next(stream) for _ in range(30)]
        for _ in range(NUM_RESTARTS):
            again = Restart(stage, server)
            try:
                came = again.killed
                while came < again.killed + DOWN_SECONDS:  # what was fetched ahead comes at once
                    batches.append(next(stream))
                    came = time.monotonic()
            finally:
                again.join()
            server = again.server
            assert again.opened is not None, "the port did not open"
            waits.append(round(max(0.0, came - again.opened), 3))
            stage.report.say(
                f"port open {again.opened - again.killed:.2f} s after the kill, "
                f"next batch {waits[-1]:.3f} s later"
            )
            batches += [next(stream) for _ in range(30)]
        stage.report.equal("reconnects", stream.reconnects, NUM_RESTARTS)
    server.kill()
    stage.report.note("seconds_to_next_batch", waits)
    stage.report.note("median_seconds_to_next_batch", statistics.median(waits))
    stage.report.at_most("longest_seconds_to_next_batch", max(waits), GO_ON_SECONDS)
    stage.check(sha256(batches), len(batches))


def replicas(stage: Stage) -> None:
    """Two servers with one cache, one of which is killed at any time."""
    servers = [stage.server(), stage.server()]
    source = random.Random(stage.seed)
    stop = threading.Event()
    restarts = []

    def kill_some() -> None:
        due = time.monotonic() + KILL_SECONDS
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + KILL_SECONDS, time.monotonic())
            index = source.randrange(2)
            servers[index].kill()
            servers[index] = stage.server(port=servers[index].port)
            restarts.append(index)

    killer = threading.Thread(target=kill_some)
    ends = time.monotonic() + REPLICA_SECONDS
    count, longest = 0, 0.0

    def drained(stream: Stream) -> Iterator[Batch]:
        nonlocal count, longest
        while time.monotonic() < ends:
            began = time.monotonic()
            yield next(stream)
            longest = max(longest, time.monotonic() - began)
            count += 1
            time.sleep(0.01)

    try:
        with stage.client(*servers) as client:
            stream = stage.open(client, batch=32, credit=4)
            killer.start()
            digest = sha256(drained(stream))
            reconnects = stream.reconnects
    finally:
        stop.set()
        if killer.ident is not None:
            killer.join(2 * START_SECONDS)
        for server in servers:
            server.kill()
    stage.report.note("kills", len(restarts), f"{restarts.count(0)} and {restarts.count(1)}")
    stage.report.note("reconnects", reconnects)
    stage.report.note("longest_wait_seconds", round(longest, 2))
    stage.check(digest, count, batch=32)


def gil(stage: Stage) -> None:
    """A consumer that lets no other thread of its process run for a while."""
    server = stage.server()
    batches = []
    with stage.client(server) as client:
        stream = stage.open(client, credit=4)
        batches += [next(stream) for _ in range(40)]
        began = time.monotonic()
        ctypes.PyDLL(None).sleep(GIL_SECONDS)  # unlike CDLL it keeps the lock
        stage.report.note("held_seconds", round(time.monotonic() - began, 1))
        began = time.monotonic()
        batches += [next(stream) for _ in range(100)]
        stage.report.note("seconds_for_the_next_100_batches", round(time.monotonic() - began, 2))
        stage.report.note("reconnects", stream.reconnects)
    server.kill()
    stage.check(sha256(batches), len(batches))


def stop(stage: Stage) -> None:
    """A server that stands still: it is waited for, or another one is taken."""
    stage.report.say("the only server stands still")
    server = stage.server()
    batches = []
    with stage.client(server, deadline_seconds=120) as client:
        stream = stage.open(client, credit=2)
        batches += [next(stream) for _ in range(30)]
        server.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        going_on = threading.Timer(STOP_SECONDS, server.signal, (signal.SIGCONT,))
        going_on.start()
        try:
            batches += [next(stream) for _ in range(100)]
        finally:
            going_on.join(STOP_SECONDS + 5)
        waited = time.monotonic() - stopped - STOP_SECONDS
        stage.report.note("seconds_after_it_went_on", round(waited, 2), "for 100 batches")
        stage.report.note("reconnects", stream.reconnects)
    server.kill()
    stage.check(sha256(batches), len(batches))
    fail_over(stage)


def fail_over(stage: Stage) -> None:
    """Of two servers the one in use stands still for good."""
    stage.report.say("one of two servers stands still")
    servers = [stage.server(), stage.server()]
    batches = []
    with stage.client(*servers) as client:
        stream = stage.open(client, credit=2)
        batches += [next(stream) for _ in range(30)]
        servers[0].signal(signal.SIGSTOP)
        began = time.monotonic()
        while not stream.reconnects:
            batches.append(next(stream))
        seconds = round(time.monotonic() - began, 2)
        stage.report.at_most("fail_over_seconds", seconds, FAIL_OVER_SECONDS)
        batches += [next(stream) for _ in range(100)]
    for server in servers:
        server.kill()
    stage.check(sha256(batches), len(batches))
