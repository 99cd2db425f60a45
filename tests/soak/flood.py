"""What hundreds of bad clients cost a good one."""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import usage
from stage import Stage, make_corpus

from streamer.bench import cpu_seconds

HERE = Path(__file__).resolve().parent
NUM_PAIRS, RUN_SECONDS, SETTLE_SECONDS = 5, 4.0, 2.0
MEGABYTES = 30
MOST_LOST_PERCENT = 10.0
ANSWER_SECONDS = 60.0


class Helper:
    """A script of this folder that answers line by line."""

    def __init__(self, script: str, argument: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def tell(self, line: str) -> None:
        """Sends it a line."""
        assert self.process.stdin is not None
        data = memoryview(f"{line}\n".encode())
        while data:  # an unbuffered pipe takes a long line in pieces
            data = data[self.process.stdin.write(data) or 0 :]

    def ask(self, line: str) -> list[str]:
        """Sends it a line and waits for the words of its answer."""
        self.tell(line)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        words = self.process.stdout.readline().decode().split() if ready else []
        assert words, f"no answer of {self.process.args!r}"
        return words

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def flood(stage: Stage) -> None:
    """Runs without and with the attack by turns."""
    corpus = make_corpus(stage.folder / "large.parquet", MEGABYTES, stage.seed)
    server = stage.server(source=corpus, cache="large-cache")
    plan = stage.plan | {"sequence_length": 512}
    with stage.client(server) as client:  # the epoch of which both find everything cached
        for _ in stage.open(client, plan=plan, batch=64, epochs=1):
            pass
    helpers = []
    try:
        helpers.append(Helper("healthy.py", server.url))
        helpers[0].tell(json.dumps({"tokenizer": stage.tokenizer_json, "plan": plan}))
        helpers[0].ask("1")
        helpers.append(Helper("attack.py", str(server.port)))
        opening = {"op": "open", "stream": 1, "plan": plan, "split": "train", "cursor": None}
        opening |= {"batch": 64, "rank": 0, "world": 1, "credit": 64, "epochs": None}
        helpers[1].tell(json.dumps(opening))
        measure(stage, server.process.pid, *helpers)
    finally:
        for helper in helpers:
            helper.close()
        server.kill()


def measure(stage: Stage, server_id: int, healthy: Helper, attack: Helper) -> None:
    """All pairs, and what is to be said of them."""
    quiet: list[float] = []
    loud: list[float] = []
    spent: list[float] = []
    costs: dict[bool, list[float]] = {False: [], True: []}
    counts: list[str] = []
    most_mb = 0.0

    def run(attacked: bool) -> None:
        nonlocal counts, most_mb
        if attacked:
            attack.tell("on")
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(server_id)
        rate, reconnects = healthy.ask(str(RUN_SECONDS))
        cost = cpu_seconds(server_id) - before
        assert reconnects == "0", "the healthy client lost its connection"
        (loud if attacked else quiet).append(float(rate))
        costs[attacked].append(cost / RUN_SECONDS)
        if attacked:
            most_mb = max(most_mb, usage(server_id).memory_mb)
            seconds, *counts = attack.ask("off")
            spent.append(float(seconds))

    for pair in range(NUM_PAIRS):
        for attacked in ((False, True), (True, False))[pair % 2]:
            run(attacked)
        stage.report.say(f"{quiet[-1] / 1e6:.1f} M tokens/s, attacked {loud[-1] / 1e6:.1f}")
    stage.report.note("tokens_per_s", round(statistics.median(quiet)), f"{quiet}")
    stage.report.note("attacked_tokens_per_s", round(statistics.median(loud)), f"{loud}")
    seconds = RUN_SECONDS + SETTLE_SECONDS
    note = f"of {seconds:g} s each; shared with client and server"
    stage.report.note("attackers_cpu_seconds", spent, note)
    for attacked, name in ((False, "server_cpu_share"), (True, "attacked_server_cpu_share")):
        stage.report.note(name, round(statistics.median(costs[attacked]), 2), "of one core")
    stage.report.note("connections_of_the_last_attack", " ".join(counts))
    stage.report.note("most_memory_mb", most_mb)
    lost = 100 * (1 - statistics.median(loud) / statistics.median(quiet))
    stage.report.at_most("lost_percent", round(lost, 1), MOST_LOST_PERCENT)
