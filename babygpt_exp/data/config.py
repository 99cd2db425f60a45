"""Group `data`: where text comes from, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamer.plan import MAX_SHUFFLE_SHARDS
from streamer.split import MAX_SALT_BYTES

SAMPLE = Path(__file__).resolve().parent.parent / "corpus" / "sample.parquet"
"""The corpus that ships with the package."""


@dataclass
class DataConfig:
    """`data=sample`, and what every option has: how a corpus is split and shuffled."""

    name: str
    """The option of group `data`."""
    validation_fraction: float
    """Share of the documents held out, chosen by a hash of their text."""
    validation_salt: str
    """Another salt holds out other documents."""
    shuffle_shards: int
    """Shards whose blocks are shuffled together; more mix better and start later."""
    seed: int
    """Seed of the order; follows the run's seed."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.validation_fraction < 1:
            problems.append(
                f"data.validation_fraction={self.validation_fraction} must be between 0 and 1"
            )
        if not 1 <= self.shuffle_shards <= MAX_SHUFFLE_SHARDS:
            problems.append(
                f"data.shuffle_shards={self.shuffle_shards} must be between 1 and "
                f"{MAX_SHUFFLE_SHARDS}"
            )
        if len(self.validation_salt.encode()) > MAX_SALT_BYTES:
            problems.append(f"data.validation_salt must be at most {MAX_SALT_BYTES} bytes")
        if not 0 <= self.seed < 2**53:
            problems.append(f"data.seed={self.seed} must be between 0 and 2^53 - 1")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def embedded_source(self) -> str | None:
        """Corpus of a streamer that the run starts itself; None where there is one already."""
        return str(SAMPLE)

    @property
    def embedded_column(self) -> str:
        """Column or field of the corpus that holds the text."""
        return "text"

    @property
    def urls(self) -> list[str]:
        """Addresses of a streamer that runs already."""
        return []


@dataclass
class LocalConfig(DataConfig):
    """`data=local`: a corpus of the user's, by a streamer that the run starts."""

    source: str
    """A file, a folder or a glob of .parquet, .jsonl and .txt, plain or .gz or .zst."""
    column: str
    """Column of a parquet file or field of a jsonl line that holds the text."""

    @property
    def embedded_source(self) -> str | None:
        return self.source

    @property
    def embedded_column(self) -> str:
        return self.column


@dataclass
class RemoteConfig(DataConfig):
    """`data=remote`: a streamer that runs already."""

    url: str
    """Its address, as `python -m streamer` prints it: ws://HOST:PORT/ws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.url.startswith(("ws://", "wss://")):
            raise ValueError(f"data.url={self.url} must start with ws:// or wss://")

    @property
    def embedded_source(self) -> str | None:
        return None

    @property
    def urls(self) -> list[str]:
        return [self.url]


DATA: dict[str, type[DataConfig]] = {
    "sample": DataConfig,
    "local": LocalConfig,
    "remote": RemoteConfig,
}
"""The dataclass of each option of group `data`."""
