"""Phases in which clients come and go: nothing of them may stay with the server."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from measure import Usage, settled_usage, slope, usage
from stage import Server, Stage

from streamer.client import StreamClient

WARM_UP, NUM_RECONNECTS = 100, 1000
GROWTH_MB = 1.0
NUM_CLIENTS, RECONNECT_SECONDS, SAMPLE_SECONDS = 8, 10.0, 5.0
SLOPE_MB_PER_HOUR = 1.0
PACE_SECONDS = 0.05
SHORTEST_SLOPE_SECONDS = 300.0
"""A slope over less may be one step of the allocator, whatever its standard error says."""


def reconnects(stage: Stage) -> None:
    """Connections that open a stream, read two batches and close."""
    server = stage.server(cache="reconnects")
    warm_up(stage, server)
    before = settled_usage(server.process.pid)
    began = time.monotonic()
    connect(stage, server, NUM_RECONNECTS)
    seconds = time.monotonic() - began
    after = settled_usage(server.process.pid, before.num_files)
    server.kill()
    stage.report.note("reconnects", NUM_RECONNECTS, f"in {seconds:.1f} s")
    stage.report.note("memory_before_mb", before.memory_mb)
    stage.report.note("memory_after_mb", after.memory_mb)
    growth = round(after.memory_mb - before.memory_mb, 3)
    stage.report.at_most("growth_mb", growth, GROWTH_MB)
    compare(stage, before, after)


def connect(stage: Stage, server: Server, times: int) -> None:
    """Opens and closes a number of connections, one after the other."""
    for _ in range(times):
        with StreamClient([server.url]) as client:
            stream = stage.open(client, credit=2)
            for _ in range(2):
                next(stream)


def warm_up(stage: Stage, server: Server) -> None:
    """All shards, read and tokenized by this server; clients at once, then one by one.

    Then all threads that it may have are there, and all that it keeps at hand.
    """
    with stage.client(server) as client:
        for _ in stage.open(client, epochs=1):
            pass
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        for done in [pool.submit(connect, stage, server, 5) for _ in range(2 * NUM_CLIENTS)]:
            done.result()
    connect(stage, server, WARM_UP)


def compare(stage: Stage, before: Usage, after: Usage) -> None:
    """What a server holds without clients is what it held without clients."""
    stage.report.equal("files", after.num_files, before.num_files)
    stage.report.at_most("threads", after.num_threads, before.num_threads)


class Coming:
    """Clients that reconnect every so often until they are told to stop."""

    def __init__(self, stage: Stage, server: Server) -> None:
        self._stage = stage
        self._server = server
        self._stop = threading.Event()
        self.num_reconnects = 0
        self.num_batches = 0
        self.faults: list[str] = []
        self._threads = [
            threading.Thread(target=self._come_and_go, args=(number,))
            for number in range(NUM_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for all of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _come_and_go(self, number: int) -> None:
        self._stop.wait(number * RECONNECT_SECONDS / NUM_CLIENTS)
        while not self._stop.is_set():
            try:
                self._stay()
            except Exception as error:  # a thread that fails silently would look like health
                self.faults.append(f"{type(error).__name__}: {error}")
                return
            self.num_reconnects += 1

    def _stay(self) -> None:
        leaves = time.monotonic() + RECONNECT_SECONDS
        with StreamClient([self._server.url]) as client:
            stream = self._stage.open(client, credit=4)
            while time.monotonic() < leaves and not self._stop.wait(PACE_SECONDS):
                next(stream)
                self.num_batches += 1


def long(stage: Stage, seconds: float) -> None:
    """Eight clients that come and go for as long as there is time."""
    server = stage.server(cache="long")
    warm_up(stage, server)
    before = settled_usage(server.process.pid)
    stage.report.say(f"{NUM_CLIENTS} clients for {seconds:.0f} s")
    points, files, threads = [], [], []
    began = time.monotonic()
    coming = Coming(stage, server)
    try:
        while (elapsed := time.monotonic() - began) < seconds:
            now = usage(server.process.pid)
            points.append((elapsed / 3600, now.memory_mb))
            files.append(now.num_files)
            threads.append(now.num_threads)
            if len(points) % 12 == 0:
                stage.report.say(f"{now}")
            time.sleep(SAMPLE_SECONDS)
    finally:
        coming.stop()
    after = settled_usage(server.process.pid, before.num_files)
    server.kill()
    stage.report.equal("faults", coming.faults, [])
    stage.report.note("seconds", round(seconds, 1))
    stage.report.note("reconnects", coming.num_reconnects, f"{coming.num_batches} batches")
    stage.report.note("memory_mb", [before.memory_mb, after.memory_mb], "before and after")
    stage.report.note("most_files", max(files))
    stage.report.note("most_threads", max(threads))
    report_slope(stage, points[len(points) // 2 :])
    compare(stage, before, after)


def report_slope(stage: Stage, points: list[tuple[float, float]]) -> None:
    """The slope of the memory, where there are samples enough to tell it."""
    found, error = (round(value, 3) for value in slope(points))
    stage.report.note("slope_standard_error_mb_per_hour", error, f"{len(points)} samples")
    seconds = 3600 * (points[-1][0] - points[0][0])
    if seconds >= SHORTEST_SLOPE_SECONDS and error <= SLOPE_MB_PER_HOUR:
        stage.report.at_most("slope_mb_per_hour", found, SLOPE_MB_PER_HOUR)
    else:
        note = "not resolved, run longer"
        stage.report.unresolved("slope_mb_per_hour", found, SLOPE_MB_PER_HOUR, note)
