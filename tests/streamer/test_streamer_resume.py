"""Resuming: from any cursor, on any world size, with any client and server, the same goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamer_harness import REPOSITORY, ServerProcess, epoch, rows, sha256

from streamer.client import Batch, StreamClient, StreamError

Start = Callable[..., ServerProcess]
END_SECONDS = 60.0
"""What the start of an interpreter may take on a busy machine."""


@pytest.fixture(autouse=True)
def _uploaded(client: StreamClient, tokenizer_json: str) -> None:
    client.upload_tokenizer(tokenizer_json)


def steps(
    client: StreamClient,
    plan: dict[str, Any],
    cursor: dict[str, Any] | None,
    batch: int,
    world: int,
    num_steps: int,
    **options: Any,
) -> list[Batch]:
    """Some steps of all ranks, put together again; all ranks agree on the cursors."""
    ranks = []
    for rank in range(world):
        stream = client.open(
            plan=plan,
            split="train",
            cursor=cursor,
            batch=batch,
            rank=rank,
            world=world,
            epochs=2,
            **options,
        )
        ranks.append(list(islice(stream, num_steps)))
        stream.close()
    joined = []
    for parts in zip(*ranks, strict=True):
        first = parts[0]
        assert all((part.start, part.next) == (first.start, first.next) for part in parts)
        tokens = np.concatenate([part.tokens for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        joined.append(Batch(tokens, lengths, first.start, first.next))
    return joined


@pytest.mark.parametrize("batch", [12, 16])
def test_world_sizes_may_change(client: StreamClient, plan: dict[str, Any], batch: int) -> None:
    whole = epoch(client, plan, batch, epochs=2)
    walked: list[Batch] = []
    for world in (1, 2, 4, 3, 1, 4, 2, 1):
        cursor = walked[-1].next if walked else None
        if batch % world:
            with pytest.raises(StreamError, match=f"{batch} is not divisible by world 3") as caught:
                steps(client, plan, cursor, batch, world, 1)
            assert (caught.value.code, caught.value.field) == ("bad_request", "batch")
            continue
        walked += steps(client, plan, cursor, batch, world, 11)
    walked += steps(client, plan, walked[-1].next, batch, 4, len(whole))
    assert sha256(walked) == sha256(whole)


def test_any_walk_over_worlds_credits_and_servers(
    client: StreamClient,
    start_server: Start,
    corpus: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
) -> None:
    """The other server has another cache, and what was fetched ahead is not in a cursor."""
    whole = epoch(client, plan, 12, epochs=2)
    source = random.Random(11)
    with StreamClient([start_server(corpus).url], deadline_seconds=30) as other:
        other.upload_tokenizer(tokenizer_json)
        walked: list[Batch] = []
        while len(walked) < len(whole):
            one = source.choice([client, other])
            world, credit = source.choice([1, 2, 3, 4, 6, 12]), source.randint(1, 16)
            cursor = walked[-1].next if walked else None
            num_steps = source.randint(1, 40)
            walked += steps(one, plan, cursor, 12, world, num_steps, credit=credit)
    assert sha256(walked) == sha256(whole)


def test_at_every_step(client: StreamClient, plan: dict[str, Any]) -> None:
    whole = epoch(client, plan, 256, epochs=3)
    for index in range(len(whole)):
        rest = epoch(client, plan, 256, epochs=3, cursor=whole[index].start)
        assert sha256(rest) == sha256(whole[index:])
    assert epoch(client, plan, 256, epochs=3, cursor=whole[-1].next) == []


def test_exactly_at_the_end_of_an_epoch(client: StreamClient, plan: dict[str, Any]) -> None:
    size = len(rows(epoch(client, plan, 256)))
    whole = epoch(client, plan, size, epochs=3)
    assert len(whole) == 3
    for number, batch in enumerate(whole, 1):
        (place,) = batch.next["sources"]
        assert batch.next["slot"] == number * size
        assert place == {"epoch": number, "group": 0, "block": 0}
        rest = epoch(client, plan, size, epochs=3, cursor=batch.next)
        assert sha256(rest) == sha256(whole[number:])
    last = epoch(client, plan, 1, epochs=3, cursor=whole[1].next)
    assert rows(last[:1])[0] == rows(whole[2:])[0]


@pytest.mark.parametrize("credit", range(1, 17))
def test_what_was_fetched_ahead_is_not_in_the_cursor(
    client: StreamClient, plan: dict[str, Any], credit: int
) -> None:
    stream = client.open(plan=plan, split="train", batch=16, epochs=1, credit=credit)
    used = list(islice(stream, 2 * credit + 1))
    stream.close()
    rest = epoch(client, plan, 16, cursor=used[-1].next)
    assert sha256([*used, *rest]) == sha256(epoch(client, plan, 16))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_may_share_a_stream(
    client: StreamClient, plan: dict[str, Any], num_threads: int
) -> None:
    stream = client.open(plan=plan, split="train", batch=3, epochs=1, credit=4)
    taken: list[Batch] = []

    def take() -> None:
        for batch in stream:
            taken.append(batch)

    threads = [threading.Thread(target=take) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken.sort(key=lambda batch: int(batch.start["slot"]))
    assert sha256(taken) == sha256(epoch(client, plan, 3))


def test_the_last_batch_of_ranks_that_do_not_divide_it(
    client: StreamClient, plan: dict[str, Any]
) -> None:
    """All ranks make as many steps; none of the last rows is lost or repeated."""
    size = len(rows(epoch(client, plan, 256)))
    batch = next(number for number in range(64, 4, -4) if size % number % 4)
    parts = [epoch(client, plan, batch, rank=rank, world=4) for rank in range(4)]
    assert {len(part) for part in parts} == {-(-size // batch)}
    counts = [len(part[-1].tokens) for part in parts]
    assert (sum(counts), max(counts) - min(counts)) == (size % batch, 1) or min(counts) == 0
    found = [row for part in parts for row in rows(part)]
    assert sorted(found) == sorted(rows(epoch(client, plan, batch)))


SCRIPT = """
import json, multiprocessing, sys
from pathlib import Path
given = json.loads(Path(__file__).with_suffix(".json").read_text())
sys.path[:0] = given["path"]
from streamer.client import StreamClient
from streamer_harness import sha256

def digest(url, plan, tokenizer_json):
    with StreamClient([url], deadline_seconds=30) as client:
        client.upload_tokenizer(tokenizer_json)
        return sha256(client.open(plan=plan, split="train", batch=3, epochs=2))

def main():
    arguments = (given["url"], given["plan"], given["tokenizer"])
    client = StreamClient([given["url"]], deadline_seconds=30)
    stream = client.open(plan=given["plan"], split="train", batch=3, epochs=None)
    next(stream)
    if given["end"] in ("fork", "spawn"):
        with multiprocessing.get_context(given["end"]).Pool(2) as pool:
            print(*pool.starmap(digest, [arguments] * 2), digest(*arguments))
        client.close()
    elif given["end"] == "exception":
        raise RuntimeError("the training step failed")
    elif given["end"] == "interrupt":
        print("streaming", flush=True)
        for batch in stream:
            pass
    print("end")

if __name__ == "__main__":
    main()
"""


class TestProcesses:
    """Whatever a client's process does, it ends, and nothing of it stays."""

    def start(
        self, tmp_path: Path, server: ServerProcess, plan: Any, tokenizer_json: str, end: str
    ) -> subprocess.Popen[str]:
        given = {"url": server.url, "plan": plan, "tokenizer": tokenizer_json, "end": end}
        given["path"] = [str(REPOSITORY), str(Path(__file__).parent)]
        script = tmp_path / "trainer.py"
        script.write_text(SCRIPT)
        script.with_suffix(".json").write_text(json.dumps(given))
        return subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("end", ["fork", "spawn"])
    def test_workers(
        self,
        tmp_path: Path,
        server: ServerProcess,
        plan: Any,
        tokenizer_json: str,
        reference: str,
        end: str,
    ) -> None:
        with self.start(tmp_path, server, plan, tokenizer_json, end) as process:
            output, errors = process.communicate(timeout=END_SECONDS)
        assert (output.split(), errors) == ([reference] * 3 + ["end"], "")
        assert process.returncode == 0

    @pytest.mark.parametrize("end", ["exception", "nothing"])
    def test_one_that_does_not_close(
        self, tmp_path: Path, server: ServerProcess, plan: Any, tokenizer_json: str, end: str
    ) -> None:
        with self.start(tmp_path, server, plan, tokenizer_json, end) as process:
            output, errors = process.communicate(timeout=END_SECONDS)
        assert process.returncode == (end == "exception")
        assert output.split() == ([] if end == "exception" else ["end"])
        assert errors.count("Traceback") == (end == "exception")

    def test_interrupt(
        self, tmp_path: Path, server: ServerProcess, plan: Any, tokenizer_json: str
    ) -> None:
        with self.start(tmp_path, server, plan, tokenizer_json, "interrupt") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "streaming\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=5)
        assert process.returncode == -signal.SIGINT
        assert errors.strip().endswith("KeyboardInterrupt")
