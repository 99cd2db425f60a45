"""Hundreds of bad clients at a server of completions, and what serving costs.

`python tests/soak/serve.py --requests 1000 [RUN]` mixes good requests with bodies that are wrong,
clients that go away while they wait or read, and some that never read; all that is good is
answered, then all slots are free and memory is where it was.

`python tests/soak/serve.py --overhead [RUN]` compares the time of a token of 16 texts through the
server with that of the engine alone, in pairs of which the median counts: `stream` reads every
token as an event, `whole` all at the end.

Without RUN a `baby` of one step of training is made. Prints one JSON object; exit status 1 if a
figure is out of its bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measure import Report, settled_usage, usage

NUM_SLOTS = 16
AT_ONCE = 48
"""Clients at a time."""
START_SECONDS = 300.0
ANSWER_SECONDS = 120.0
MOST_GROWTH_MB = 24.0
"""Of the second half of all requests: what one more of each kind leaves is nothing."""
MOST_OVERHEAD_PERCENT = 10.0
PROMPT_TOKENS, TEXT_TOKENS, NUM_PAIRS = 64, 256, 5
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def make_run(folder: Path) -> Path:
    """A `baby` that was trained for one step."""
    words = "model=baby logger=none hardware.compile=false run.max_tokens=8192"
    words += " run.batch_tokens=8192 run.eval_tokens=8192 run.sample_every_tokens=null"
    start = [sys.executable, "-m", "babygpt_exp", *words.split(), f"hydra.run.dir={folder}"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, timeout=START_SECONDS)
    return folder


class Server:
    """A server of a run."""

    def __init__(self, run: Path) -> None:
        start = [sys.executable, "-m", "babygpt_exp.serve", str(run), "--port=0"]
        self.process = subprocess.Popen(
            [*start, f"--slots={NUM_SLOTS}"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line
        self.port = int(line.rpartition(":")[2].strip().rstrip("/"))

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        assert self.process.wait(10) == 0


async def exchange(port: int, data: bytes, num_bytes: int = -1) -> bytes:
    """What comes back for some bytes; no more than `num_bytes`, and then we are gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        return await reader.read(num_bytes)
    finally:
        writer.close()


def post(body: bytes) -> bytes:
    """A request with a body."""
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def health(port: int) -> dict[str, Any]:
    """What /health says."""
    answer = await exchange(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))


async def one_client(port: int, chance: random.Random) -> str:
    """A random client; what it did, and how it was answered."""
    fields: dict[str, Any] = {
        "prompt": "the river " * chance.randint(0, 40),
        "max_tokens": chance.randint(1, 40),
        "n": chance.choice((1, 1, 1, 3)),
        "stream": chance.random() < 0.5,
        "seed": chance.randrange(100),
    }
    if chance.random() < 0.3:
        fields["logprobs"] = chance.randint(0, 5)
    kind = chance.choice(("good", "good", "leaves", "leaves early", "bad", "half", "silent"))
    if kind == "good":
        answer = await exchange(port, post(json.dumps(fields).encode()))
        is_whole = answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if fields["stream"] else b"}}")
        status = answer[9:12].decode()
        return f"good {status}" if is_whole or status != "200" else "good, but cut off"
    if kind == "bad":
        wrong = (b"", b"{", b"[1]", b'{"prompt": 3}', b"\xff" * 50, b"[" * 9999, b" " * (2 << 20))
        answer = await exchange(port, post(chance.choice(wrong)))
        return f"bad {answer[9:12].decode()}"
    if kind == "half":
        await exchange(port, post(json.dumps(fields).encode())[: chance.randint(1, 200)], 0)
        return kind
    fields |= {"max_tokens": 4000, "stream": kind != "leaves early" or fields["stream"]}
    data = post(json.dumps(fields).encode())
    if kind == "silent":  # reads nothing of what comes
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
        writer.write(data)
        await asyncio.sleep(chance.random())
        writer.transport.abort()
    elif kind == "leaves early":
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await asyncio.sleep(chance.random() / 5)
        writer.close()
    else:
        await exchange(port, data, chance.randint(200, 4000))
    return kind


async def many_clients(port: int, count: int, seed: int) -> Counter[str]:
    """What some random clients did, AT_ONCE at a time."""
    gate, found = asyncio.Semaphore(AT_ONCE), Counter[str]()

    async def run(number: int) -> None:
        async with gate, asyncio.timeout(ANSWER_SECONDS):
            found[await one_client(port, random.Random(f"{seed} {number}"))] += 1

    await asyncio.gather(*(run(number) for number in range(count)))
    deadline = time.monotonic() + ANSWER_SECONDS
    while (state := await health(port))["slots_busy"] or state["queue"]:
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.1)
    return found


def requests(report: Report, run: Path, count: int) -> None:
    """Random clients, twice as many as half of them, and what they leave behind."""
    report.phase = "requests"
    server = Server(run)
    try:
        kinds = asyncio.run(many_clients(server.port, count // 2, 1))
        before = settled_usage(server.process.pid)
        kinds += asyncio.run(many_clients(server.port, count - count // 2, 2))
        after = settled_usage(server.process.pid, before.num_files)
        state = asyncio.run(health(server.port))
    finally:
        server.close()
    report.note("clients", dict(sorted(kinds.items())))
    wrong = [kind for kind in kinds if kind.startswith(("bad 2", "bad 5", "good 5", "good,"))]
    report.equal("wrong_answers", wrong, [])
    for name, wanted in (("status", "ok"), ("slots_busy", 0), ("queue", 0)):
        report.equal(name, state[name], wanted)
    report.note("memory_mb", [round(before.memory_mb, 1), round(after.memory_mb, 1)])
    growth = round(after.memory_mb - before.memory_mb, 1)
    report.at_most("memory_growth_mb", growth, MOST_GROWTH_MB)
    report.equal("files", after.num_files, before.num_files)
    report.equal("threads", after.num_threads, before.num_threads)


async def read_texts(port: int, streams: bool) -> float:
    """Seconds from the first byte asked for to the last one answered, of all texts."""
    prompt = list(range(1, PROMPT_TOKENS + 1))
    body = {"prompt": prompt, "max_tokens": TEXT_TOKENS, "temperature": 0, "stream": streams}
    data = post(json.dumps(body).encode())
    began = time.perf_counter()
    answers = await asyncio.gather(*(exchange(port, data) for _ in range(NUM_SLOTS)))
    seconds = time.perf_counter() - began
    for answer in answers:
        assert answer[9:12] == b"200", answer[:300]
        assert b'"finish_reason": "length"' in answer, "a text ended by itself: take another RUN"
    return seconds


ENGINE = """
import sys, time
from pathlib import Path
from babygpt_exp.generation.request import Request
from babygpt_exp.sampling import Settings
from babygpt_exp.generation.start import start_engine
from babygpt_exp.serving.cli import warm_up
from babygpt_exp.trained import load_trained
engine = start_engine(load_trained(Path(sys.argv[1])), int(sys.argv[2]), precision=None)
warm_up(engine)
prompt, count = tuple(range(1, int(sys.argv[3]) + 1)), int(sys.argv[4])
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    for _ in range(engine.num_slots):
        engine.add(Request(prompt, count, Settings(temperature=0.0)))
    while engine.is_busy:
        engine.step()
    print(time.perf_counter() - began, flush=True)
"""
"""A process that has the engine as the server has it, and nothing else; writes for each line."""


def overhead(report: Report, run: Path) -> None:
    """The engine alone, a stream and whole answers, by turns."""
    report.phase = "overhead"
    words = [str(run), str(NUM_SLOTS), str(PROMPT_TOKENS), str(TEXT_TOKENS)]
    alone = subprocess.Popen(
        [sys.executable, "-c", ENGINE, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert alone.stdin is not None
    assert alone.stdout is not None
    server = Server(run)
    try:
        assert alone.stdout.readline() == "ready\n"
        seconds: dict[str, list[float]] = {"engine": [], "stream": [], "whole": []}
        for _ in range(NUM_PAIRS + 1):
            alone.stdin.write("\n")
            alone.stdin.flush()
            seconds["engine"].append(float(alone.stdout.readline()))
            seconds["stream"].append(asyncio.run(read_texts(server.port, True)))
            seconds["whole"].append(asyncio.run(read_texts(server.port, False)))
        report.note("server_memory_mb", round(usage(server.process.pid).memory_mb, 1))
    finally:
        alone.stdin.close()
        alone.wait(60)
        server.close()
    tokens = NUM_SLOTS * TEXT_TOKENS
    for kind, values in seconds.items():
        each = [round(1e6 * value / tokens, 1) for value in values[1:]]  # the first one warms up
        report.note(f"{kind}_us_per_token", round(statistics.median(each), 1), f"{each}")
    for kind in ("stream", "whole"):
        pairs = zip(seconds[kind][1:], seconds["engine"][1:], strict=True)
        lost = statistics.median(100 * (one / other - 1) for one, other in pairs)
        report.at_most(f"{kind}_overhead_percent", round(lost, 1), MOST_OVERHEAD_PERCENT)


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, metavar="N", help="random clients")
    parser.add_argument("--overhead", action="store_true", help="what serving costs")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    options = parser.parse_args()
    if not options.requests and not options.overhead:
        parser.error("nothing to measure: --requests N, --overhead, or both")
    report = Report()
    with tempfile.TemporaryDirectory() as place:
        run = options.run or make_run(Path(place, "run"))
        if options.requests:
            requests(report, run, options.requests)
        if options.overhead:
            overhead(report, run)
    print(json.dumps(report.payload()))
    sys.exit(bool(report.broken))


if __name__ == "__main__":
    main()
