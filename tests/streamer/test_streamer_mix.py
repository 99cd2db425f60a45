"""Several sources: mixed by weight, each once an epoch, whatever the batch and the world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamer_forks import fork
from streamer_harness import ServerProcess, ask, epoch, rows, sha256, talk

from streamer.client import StreamClient, StreamError
from streamer.mix import schedule

Start = Callable[..., ServerProcess]
WEIGHTS = (1.0, 3.0, 0.5)


@given(
    slot=st.integers(0, 2**53 - 1),
    count=st.integers(0, 50),
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6),
)
def test_the_schedule_is_its_definition(slot: int, count: int, weights: list[float]) -> None:
    sums = np.cumsum(weights)
    wanted = []
    for k in range(slot, slot + count):
        place = (k * 0x9E3779B97F4A7C15) % 2**64
        bounds = [int(bound / sums[-1] * 2.0**64) for bound in sums[:-1]]
        wanted.append(next((i for i, bound in enumerate(bounds) if place < bound), len(bounds)))
    assert schedule(slot, count, weights).tolist() == wanted


@pytest.mark.parametrize("weights", [(1e9, 1e-9), (1.0, 1e9, 1e-9), (1e9, 1e-9, 1e-9)])
def test_weights_that_differ_beyond_double_precision(weights: tuple[float, ...]) -> None:
    counts = np.bincount(schedule(2**52, 10_000, weights), minlength=len(weights))
    assert counts[np.argmax(weights)] >= 9_999


@pytest.mark.parametrize("start", [0, 12345, 2**50])
def test_every_stretch_has_the_proportions_of_the_weights(start: int) -> None:
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    for length in (10, 100, 10_000):
        counts = np.bincount(schedule(start, length, WEIGHTS), minlength=3)
        assert np.abs(counts - shares * length).max() <= 3


@pytest.fixture(scope="module")
def parts(documents: list[str]) -> list[list[str]]:
    return [documents[:60], documents[60:240], documents[240:]]


@pytest.fixture(scope="module")
def mixed(
    parts: list[list[str]], tmp_path_factory: pytest.TempPathFactory, cache_dir: Path
) -> Iterator[ServerProcess]:
    """A server of three sources of different sizes and weights."""
    folder = tmp_path_factory.mktemp("mix")
    sources = []
    for number, (part, weight) in enumerate(zip(parts, WEIGHTS, strict=True)):
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table({"text": part}), path, row_group_size=30)
        sources.append(f"{path}={weight}")
    rest = [f"--source={source}" for source in sources[1:]]
    server = ServerProcess(sources[0], cache_dir, *rest, start=fork)
    yield server
    server.kill()


@pytest.fixture
def mix_client(mixed: ServerProcess, tokenizer_json: str) -> Iterator[StreamClient]:
    with StreamClient([mixed.url], deadline_seconds=30) as client:
        client.upload_tokenizer(tokenizer_json)
        yield client


@pytest.mark.parametrize("shuffle", [None, {"shards": 2, "seed": 5}])
def test_an_epoch_has_every_block_of_every_source_once(
    mix_client: StreamClient,
    plan: dict[str, Any],
    parts: list[list[str]],
    start_server: Start,
    tokenizer_json: str,
    tmp_path: Path,
    shuffle: Any,
) -> None:
    found = rows(epoch(mix_client, plan | {"shuffle": shuffle}, 7))
    wanted = []
    for number, part in enumerate(parts):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": part}), path, row_group_size=30)
        with StreamClient([start_server(path).url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            own = rows(epoch(client, plan | {"shuffle": None}, 16))
        if shuffle is None:  # each source's blocks come in their own order
            assert [row for row in found if row in own] == own
        wanted += own
    assert sorted(found) == sorted(wanted)


def test_the_stream_does_not_depend_on_the_batch(
    mix_client: StreamClient, plan: dict[str, Any]
) -> None:
    wanted = rows(epoch(mix_client, plan, 1, epochs=2))
    for batch in (3, 64, 1000):
        assert rows(epoch(mix_client, plan, batch, epochs=2)) == wanted


def test_it_goes_on_from_any_cursor(mix_client: StreamClient, plan: dict[str, Any]) -> None:
    batches = epoch(mix_client, plan, 5, epochs=2)
    for index in range(0, len(batches), 9):
        rest = epoch(mix_client, plan, 5, epochs=2, cursor=batches[index].start)
        assert sha256(rest) == sha256(batches[index:])


def test_ranks_share_every_batch(mix_client: StreamClient, plan: dict[str, Any]) -> None:
    whole = epoch(mix_client, plan, 8)
    for world in (2, 4):
        ranks = [epoch(mix_client, plan, 8, rank=rank, world=world) for rank in range(world)]
        for step, batch in enumerate(whole):
            union = [row for rank in ranks for row in rows([rank[step]])]
            assert union == rows([batch])
            assert {str(rank[step].next) for rank in ranks} == {str(batch.next)}


def test_without_end_sources_repeat_each_at_its_own_pace(
    mix_client: StreamClient, plan: dict[str, Any]
) -> None:
    stream = mix_client.open(plan=plan, split="train", batch=64)
    batches = [next(stream) for _ in range(60)]
    stream.close()
    positions = batches[-1].next["sources"]
    counts = np.bincount(schedule(0, 60 * 64, WEIGHTS))
    assert batches[-1].next["slot"] == counts.sum()
    assert positions[0]["epoch"] > positions[2]["epoch"]
    assert all(batch.tokens.shape == (64, 65) for batch in batches)


def test_documents_come_from_every_source_by_weight(
    mix_client: StreamClient, parts: list[list[str]]
) -> None:
    found = mix_client.documents(split="train", fraction=0.0, salt="", max_documents=45)
    assert found == parts[0][:10] + parts[1][:30] + parts[2][:5]


def test_the_plan_names_weights_and_differences(mixed: ServerProcess) -> None:
    async def speech(socket: Any) -> None:
        full = (await ask(socket, {"op": "info"}))["sources"]
        assert [source["weight"] for source in full] == list(WEIGHTS)
        message = {"op": "text", "source": 3, "split": "train", "fraction": 0.1, "salt": ""}
        reply = await ask(socket, message | {"max_documents": 1, "max_bytes": 1})
        assert (reply["code"], reply["field"]) == ("bad_request", "source")

    talk(mixed.url, speech)


def test_other_weights_are_another_plan(mix_client: StreamClient, plan: dict[str, Any]) -> None:
    full = mix_client.open(plan=plan, split="train", batch=4, epochs=1).plan
    sources = [source | {"weight": 1.0} for source in full["sources"]]
    with pytest.raises(StreamError) as caught:
        mix_client.open(plan=full | {"sources": sources}, split="train", batch=4)
    assert (caught.value.code, caught.value.field) == ("plan_mismatch", "sources.1.weight")
