"""FineWeb's 15 trillion tokens in 50,000 shards: every cursor is answered, exactly.

The oracles sort and count all there is, as nobody would who serves. See streamer_scale.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import streamer_scale
from streamer_scale import Corpus, Place, Scale

from streamer.cursor import Cursor, Position
from streamer.mix import schedule
from streamer.order import SHARDS, permutation_key
from streamer.reader import Step
from streamer.sources.files import Identity, SourceFile
from streamer.sources.listing import Shards, shards_of, source_fingerprint
from streamer.sources.spec import SourceSpec

ONE, MIX = Scale(), Scale(sources=3, shards=60_000)
NUM_CURSORS = 5
MOST_MEMORY_MB = 200.0
LARGEST_BATCH = 1 << 16


def explore(scale: Scale, folder: Path, work: Callable[[Corpus], Awaitable[None]]) -> None:
    async def run() -> None:
        corpus = Corpus(scale, folder)
        try:
            await work(corpus)
        finally:
            corpus.close()

    asyncio.run(run())


def rank(key: int, size: int, index: int) -> int:
    """Where a permutation puts an index: how many of all outputs are smaller than its own."""
    z = np.uint64(key) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return int((z < z[index]).sum())


def position_of(corpus: Corpus, epoch: int, place: Place) -> Position:
    """Where an epoch serves a block: the inverse of what the server does."""
    (source, shard, block), scale = place, corpus.scale
    key = permutation_key(scale.seed, epoch, SHARDS, source)
    group = rank(key, scale.source_shards, shard) // scale.shuffle_shards
    chosen = corpus.chosen(source, Position(epoch, group))
    sizes = [scale.shard_blocks(source, each) for each in chosen]
    assert block < sizes[chosen.index(shard)]
    index = sum(sizes[: chosen.index(shard)]) + block
    key = permutation_key(scale.seed, epoch, 1 + group, source)
    return Position(epoch, group, rank(key, sum(sizes), index))


def advanced(corpus: Corpus, source: int, place: Position, count: int) -> Position:
    """The position `count` blocks further on, by sums."""
    num_groups = -(-corpus.scale.source_shards // corpus.scale.shuffle_shards)
    epoch, group, block = place.epoch, place.group, place.block + count
    while True:
        chosen = corpus.chosen(source, Position(epoch, group))
        size = sum(corpus.scale.shard_blocks(source, shard) for shard in chosen)
        if block < size:
            return Position(epoch, group, block)
        block -= size
        epoch, group = (epoch, group + 1) if group + 1 < num_groups else (epoch + 1, 0)


def near_the_end_of_a_group(corpus: Corpus, group: int, num_left: int) -> Cursor:
    """The cursor before the last blocks of a group of each source."""
    ends = [
        advanced(corpus, source, Position(7, group), 0) for source in range(corpus.scale.sources)
    ]
    sizes = [
        sum(corpus.scale.shard_blocks(source, shard) for shard in corpus.chosen(source, end))
        for source, end in enumerate(ends)
    ]
    positions = tuple(Position(7, group, size - num_left) for size in sizes)
    return Cursor(10**12, positions)


def test_every_block_has_one_position_and_every_position_its_block(tmp_path: Path) -> None:
    async def work(corpus: Corpus) -> None:
        chance = random.Random(1)
        for _ in range(NUM_CURSORS):
            cursor = corpus.random_cursor(chance)
            (step,) = await corpus.steps(cursor, 1, 2)
            (position,) = cursor.sources
            assert position_of(corpus, position.epoch, corpus.places(step)[0]) == position
            shard = chance.randrange(ONE.shards)
            place = (0, shard, chance.randrange(ONE.shard_blocks(0, shard)))
            position = position_of(corpus, 3, place)
            (step,) = await corpus.steps(Cursor(0, (position,)), 1, 2)
            assert corpus.places(step)[0] == place

    explore(ONE, tmp_path, work)


@pytest.mark.parametrize("group", [0, 6_000, 12_499])
def test_walking_comes_where_arithmetic_says(group: int, tmp_path: Path) -> None:
    async def work(corpus: Corpus) -> None:
        start = near_the_end_of_a_group(corpus, group, 1000)
        steps = await corpus.steps(start, 40, LARGEST_BATCH)
        for number, step in enumerate(steps, 1):
            slot = start.slot + number * LARGEST_BATCH
            position = advanced(corpus, 0, start.sources[0], number * LARGEST_BATCH)
            assert step.following == Cursor(slot, (position,))

    explore(ONE, tmp_path, work)


@pytest.mark.parametrize("scale", [ONE, MIX])
def test_a_stream_goes_on_from_any_cursor_in_batches_of_any_size(
    scale: Scale, tmp_path: Path
) -> None:
    async def work(corpus: Corpus) -> None:
        start = near_the_end_of_a_group(corpus, 2, 150)
        steps = await corpus.steps(start, 6, 100)
        places = [place for step in steps for place in corpus.places(step)]
        assert len(set(places)) == 600
        for number, step in enumerate(steps):
            (again,) = await corpus.steps(step.start, 1, 100)
            assert again.following == step.following
            assert corpus.places(again) == places[100 * number : 100 * number + 100]
        (whole,) = await corpus.steps(start, 1, 600)
        assert corpus.places(whole) == places
        assert whole.following == steps[-1].following

    explore(scale, tmp_path, work)


def test_ranks_share_each_batch_and_sources_have_their_weights(tmp_path: Path) -> None:
    async def work(corpus: Corpus) -> None:
        start, batch, world = near_the_end_of_a_group(corpus, 5, 40), 96, 8
        whole = await corpus.steps(start, 2, batch)
        parts = [await corpus.steps(start, 2, batch, rank, world) for rank in range(world)]
        for number, step in enumerate(whole):
            shared: list[Step] = [part[number] for part in parts]
            assert {each.following for each in shared} == {step.following}
            places = [place for each in shared for place in corpus.places(each)]
            assert places == corpus.places(step)
            slot = start.slot + number * batch
            assert [source for source, _, _ in places] == schedule(slot, batch, [1, 2, 3]).tolist()

    explore(MIX, tmp_path, work)


@pytest.mark.parametrize("prompt", [None, ("{a} ", "b")])
def test_shards_are_made_when_they_are_looked_at(prompt: tuple[str, ...] | None) -> None:
    spec = SourceSpec("folder", column="t\u00e9xt", prompt=prompt)
    files = [SourceFile(f"{name}.parquet", Identity(9, "1"), f'"{name}') for name in "ab"]
    counts = ([5, 0, 3], [1, 1])
    shards = Shards(tuple(map(shards_of, files, (spec, spec), counts)))
    assert len(shards) == 4
    assert [(each.file.address[0], each.start) for each in shards] == [
        ("a", 0),
        ("a", 2),
        ("b", 0),
        ("b", 1),
    ]
    assert [shards[index] for index in range(4)] == list(shards)
    for index in (4, -1):
        with pytest.raises(IndexError):
            shards[index]
    parts = [2, "parquet", None, '"a', "t\u00e9xt", "error", 0, 2, 3]
    parts += [] if prompt is None else [prompt]
    fingerprint = hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()
    assert shards[1].fingerprint == fingerprint
    text = json.dumps([each.fingerprint for each in shards])
    found = source_fingerprint(each.fingerprints for each in shards.files)
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_the_plan_of_fineweb_needs_little_memory() -> None:
    command = [sys.executable, streamer_scale.__file__, "--tokens", "15e12", "--shards", "50000"]
    done = subprocess.run(
        [*command, "--cursors", "5"], capture_output=True, text=True, check=True, timeout=120
    )
    figures = json.loads(done.stdout)
    assert figures["tokens"] == 15e12
    assert figures["memory_peak_mb"] < MOST_MEMORY_MB
    assert figures["plan_bytes"] < 1000
    assert figures["cursor_bytes"] < 200
