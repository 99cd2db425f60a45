"""A plan of FineWeb's size of which only the numbers are real.

    python tests/streamer/streamer_scale.py --tokens 15e12 --shards 50000

Listing, plan, order, cursors, walks, mixing, ranks and frames are the server's own code. Nothing is
read or tokenized: a shard's tokens are so many zeros, of memory that is never touched. Prints one
JSON object: how long it takes from a cursor to the message with its batch, and the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamer.blocks import Group, num_blocks
from streamer.cache import TokenCache
from streamer.cursor import Cursor, Position
from streamer.library import Library
from streamer.order import SHARDS, permutation, permutation_key, splitmix64
from streamer.plan import Plan, agree
from streamer.reader import Reader, Share, Step, make_message
from streamer.sources.files import Identity, SourceFile
from streamer.sources.listing import Listing, Shard, Shards, shards_of, source_fingerprint
from streamer.sources.spec import SourceSpec
from streamer.tokens import ShardTokens, TextTokenizer, TokenSpec

TOKENIZER = json.dumps(
    {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
)
SHARDS_PER_FILE = 1000
KEPT_GROUPS = 64
Place = tuple[int, int, int]
"""Source, shard and block."""


@dataclass(frozen=True)
class Scale:
    """How large a plan is."""

    tokens: int = 15 * 10**12
    """Of all sources, about; each has as many as the others."""
    shards: int = 50_000
    """Of all sources."""
    sources: int = 1
    """Their weights are 1, 2, 3, ..."""
    sequence_length: int = 1024
    shuffle_shards: int = 4
    seed: int = 1

    @property
    def source_shards(self) -> int:
        """Shards of each source."""
        return self.shards // self.sources

    def shard_tokens(self, source: int, shard: int) -> int:
        """Tokens of a shard: between three quarters and five quarters of the mean."""
        share = splitmix64(source << 32 | shard) / 2**64
        return int(self.tokens / self.shards * (0.75 + share / 2))

    def shard_blocks(self, source: int, shard: int) -> int:
        """Blocks of a shard."""
        return num_blocks(self.shard_tokens(source, shard), self.sequence_length)


class Corpus(Library):
    """The library of a plan; its shards are prepared by a look at their numbers."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        super().__init__([], TokenCache(folder))
        self.scale = scale
        self.made = tuple(make_listing(scale, source) for source in range(scale.sources))
        self.tokenizer = TextTokenizer(TOKENIZER)
        self.plan = make_plan(scale, self.made, self.tokenizer)
        self._zeros = np.zeros(int(scale.tokens / scale.shards * 1.25) + 1, "<u2")
        self._groups: dict[int, tuple[Group, int, Position]] = {}

    async def group(
        self,
        listing: Listing,
        source: int,
        plan: Plan,
        spec: TokenSpec,
        tokenizer: TextTokenizer,
        position: Position,
    ) -> Group:
        """The real one, remembered for a while, so that `places` knows where it lies."""
        made = await super().group(listing, source, plan, spec, tokenizer, position)
        self._groups[id(made)] = made, source, position
        if len(self._groups) > KEPT_GROUPS:
            del self._groups[next(iter(self._groups))]
        return made

    async def _prepare(
        self, shard: Shard, source: SourceSpec, spec: TokenSpec, tokenizer: TextTokenizer
    ) -> ShardTokens:
        file = Path(shard.file.address)
        number = int(file.stem) * SHARDS_PER_FILE + shard.start
        size = self.scale.shard_tokens(int(file.parent.name), number)
        return ShardTokens(self._zeros[:size], 0, 0)

    def reader(self, cursor: Cursor, batch: int, rank: int = 0, world: int = 1) -> Reader:
        """What the server makes of an `open`."""
        share = Share("train", batch, rank, world, None)
        return Reader(self, self.made, self.plan, self.tokenizer, share, cursor)

    async def steps(
        self, cursor: Cursor, count: int, batch: int, rank: int = 0, world: int = 1
    ) -> list[Step]:
        """The first batches from a cursor on."""
        reader = self.reader(cursor, batch, rank, world)
        try:
            await reader.begin()
            steps: list[Step] = []
            while len(steps) < count:
                steps += await reader.steps(count - len(steps))
        finally:
            reader.close()
        return steps

    async def message(self, cursor: Cursor, batch: int) -> bytes:
        """What a client is sent first."""
        steps = await self.steps(cursor, 1, batch)
        width = self.scale.sequence_length + 1
        return await self.quickly(lambda: make_message(steps, 1, width, self.plan.dtype))

    def places(self, step: Step) -> list[Place]:
        """What the rows of a step are, in their order."""
        rows: dict[int, Place] = {}
        for span in step.spans:
            _, source, position = self._groups[id(span.group)]
            chosen = self.chosen(source, position)
            pairs = zip(*span.group.places(span.start, span.start + len(span.rows)), strict=True)
            for row, (shard, block) in zip(span.rows.tolist(), pairs, strict=True):
                rows[row] = source, chosen[int(shard)], int(block)
        assert sorted(rows) == list(range(step.num_rows))
        return [rows[row] for row in range(step.num_rows)]

    def chosen(self, source: int, position: Position) -> list[int]:
        """The shards of a group, by sorting all: another way than the server's."""
        key = permutation_key(self.scale.seed, position.epoch, SHARDS, source)
        size, first = self.scale.shuffle_shards, position.group * self.scale.shuffle_shards
        order = permutation(key, self.scale.source_shards)
        return list(map(int, order[first : first + size]))

    def random_cursor(self, chance: random.Random, num_epochs: int = 1000) -> Cursor:
        """Anywhere in the first epochs, the last quarter of each group aside."""
        scale, positions = self.scale, []
        for _ in range(scale.sources):
            group = chance.randrange(-(-scale.source_shards // scale.shuffle_shards))
            num_shards = min(
                scale.shuffle_shards, scale.source_shards - group * scale.shuffle_shards
            )
            least = int(num_shards * 0.75 * scale.tokens / scale.shards / scale.sequence_length)
            block = chance.randrange(max(1, least - num_shards))
            positions.append(Position(chance.randrange(num_epochs), group, block))
        return Cursor(chance.randrange(2**53), tuple(positions))


def make_listing(scale: Scale, source: int) -> Listing:
    """Parquet files of a thousand row groups each, as if their footers had been read."""
    spec = SourceSpec(f"/{source}", weight=1.0 + source)
    files = []
    for first in range(0, scale.source_shards, SHARDS_PER_FILE):
        name = f"/{source}/{first // SHARDS_PER_FILE:06}.parquet"
        file = SourceFile(name, Identity(1, "1"), f"{source} {first}")
        counts = [1] * min(SHARDS_PER_FILE, scale.source_shards - first)
        files.append(shards_of(file, spec, counts))
    return Listing(
        name=str(source),
        spec=spec,
        snapshot={each.file.address: each.file.identity for each in files},
        shards=Shards(tuple(files)),
        num_bytes=len(files),
        fingerprint=source_fingerprint(each.fingerprints for each in files),
    )


def make_plan(scale: Scale, listings: tuple[Listing, ...], tokenizer: TextTokenizer) -> Plan:
    """The plan that a client would be given."""
    proposed = {
        "tokenizer": {"hash": tokenizer.hash, "eot_id": 0},
        "sequence_length": scale.sequence_length,
        "validation": {"fraction": 0.0, "salt": ""},
        "shuffle": {"shards": scale.shuffle_shards, "seed": scale.seed},
    }
    return agree(proposed, listings, tokenizer.vocab_size)


def memory_mb(name: str) -> float:
    """VmRSS or VmHWM, the most that it ever was, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return round(int(line.split()[1]) / 1e3, 1)


async def measure(
    scale: Scale, num_cursors: int, num_epochs: int, batch: int, folder: Path
) -> dict[str, Any]:
    """Seconds to list, milliseconds from each of some random cursors to its batch, and memory."""
    before, start = memory_mb("VmRSS"), time.perf_counter()
    corpus = Corpus(scale, folder)
    listed, chance = time.perf_counter() - start, random.Random(0)
    wall, cpu = [], []
    try:
        cursors = [corpus.random_cursor(chance, num_epochs) for _ in range(num_cursors)]
        await corpus.message(corpus.random_cursor(chance), batch)  # starts the threads
        for cursor in cursors:
            began, began_cpu = time.perf_counter(), time.process_time()
            await corpus.message(cursor, batch)
            wall.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - began_cpu))
    finally:
        corpus.close()
    return asdict(scale) | {
        "batch": batch,
        "cursors": num_cursors,
        "epochs": num_epochs,
        "cursor_ms_median": round(statistics.median(wall), 2),
        "cursor_ms_max": round(max(wall), 2),
        "cursors_above_10_ms": sum(each > 10 for each in wall),
        "cursor_cpu_ms_median": round(statistics.median(cpu), 2),
        "cursor_cpu_ms_max": round(max(cpu), 2),
        "fingerprint_seconds": round(listed, 2),
        "plan_bytes": len(json.dumps(corpus.plan.payload)),
        "cursor_bytes": max(len(json.dumps(cursor.payload())) for cursor in cursors),
        "memory_before_mb": before,
        "memory_peak_mb": memory_mb("VmHWM"),
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    for name, value in asdict(Scale()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=lambda text: int(float(text)), default=value
        )
    parser.add_argument("--cursors", type=int, default=100, help="random ones (default: 100)")
    parser.add_argument("--epochs", type=int, default=1000, help="they lie in (default: 1000)")
    parser.add_argument("--batch", type=int, default=64, help="blocks (default: 64)")
    options = vars(parser.parse_args())
    chosen = [options.pop(name) for name in ("cursors", "epochs", "batch")]
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Scale(**options), *chosen, Path(folder)))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
