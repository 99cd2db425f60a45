"""How long the first batch takes, at the start, in the middle and at the end of an epoch."""

from __future__ import annotations

import statistics
import time
from typing import Any

from stage import Server, Stage

from streamer.client import StreamClient

NUM_TIMES = 5
MOST_TIMES_START = 2.0
Cursors = dict[str, dict[str, Any]]


def resume(stage: Stage) -> None:
    """With a warm cache, and with a cold one, for which each time is a new server's first."""
    server = stage.server()
    with stage.client(server) as client:
        stream = stage.open(client, epochs=1)
        starts = [batch.start for batch in stream]
        plan = stream.plan
        middle, last = starts[len(starts) // 2], starts[-1]
        cursors = {"start": starts[0], "middle": middle, "last": last}
        warm = {name: [first_batch(client, plan, cursors[name])] for name in cursors}
        for _ in range(NUM_TIMES - 1):
            for name, cursor in cursors.items():
                warm[name].append(first_batch(client, plan, cursor))
    server.kill()
    stage.report.note("batches_of_an_epoch", len(starts))
    compare(stage, "warm", warm)
    cold: dict[str, list[float]] = {name: [] for name in cursors}
    for turn in range(NUM_TIMES):
        for name, cursor in cursors.items():
            server = stage.server(cache=f"cold-{turn}-{name}")
            cold[name].append(cold_batch(stage, server, plan, cursor))
            server.kill()
    compare(stage, "cold", cold)


def cold_batch(stage: Stage, server: Server, plan: dict[str, Any], cursor: dict[str, Any]) -> float:
    """Seconds until a new server's first batch."""
    with stage.client(server) as client:
        return first_batch(client, plan, cursor)


def first_batch(client: StreamClient, plan: dict[str, Any], cursor: dict[str, Any]) -> float:
    """Seconds from opening a stream to its first batch."""
    began = time.perf_counter()
    stream = client.open(plan=plan, split="train", batch=16, cursor=cursor)
    batch = next(stream)
    seconds = time.perf_counter() - began
    assert batch.start == cursor
    stream.close()
    return seconds


def compare(stage: Stage, kind: str, seconds: dict[str, list[float]]) -> None:
    """The end against the start, as medians."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        spread = f"{1e3 * min(times):.1f} to {1e3 * max(times):.1f}"
        stage.report.note(f"{kind}_{name}_milliseconds", round(1e3 * medians[name], 2), spread)
    ratio = round(medians["last"] / medians["start"], 2)
    stage.report.at_most(f"{kind}_last_over_start", ratio, MOST_TIMES_START)
