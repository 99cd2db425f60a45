"""Group `data`: where text comes from, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babygpt_exp.data.addresses import read_addresses, shuffled
from streamer.access import read_tokens
from streamer.client import StreamClient
from streamer.eir.client import MAX_BATCH_SIZE, EirClient
from streamer.plan import MAX_SHUFFLE_SHARDS
from streamer.sources.spec import ON_BAD_DOCUMENT
from streamer.sources.template import Template
from streamer.split import MAX_SALT_BYTES

SAMPLE = Path(__file__).resolve().parent.parent / "corpus" / "sample.parquet"
"""The corpus that ships with the package."""


@dataclass
class DataConfig:
    """What every option has: how a corpus is split."""

    name: str
    """The option of group `data`."""
    validation_fraction: float
    """Share of the documents held out, chosen by a hash of their text."""
    validation_salt: str
    """Another salt holds out other documents."""

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        fraction, found = self.validation_fraction, []
        if not 0 < fraction < 1:
            found.append(f"data.validation_fraction={fraction} must be between 0 and 1")
        if len(self.validation_salt.encode()) > MAX_SALT_BYTES:
            found.append(f"data.validation_salt must be at most {MAX_SALT_BYTES} bytes")
        return found

    @property
    def embedded_sources(self) -> list[str]:
        """What a streamer serves that the run starts itself, as PATH_OR_URL[=WEIGHT]; none where
        there is a streamer already."""
        return [str(SAMPLE)]

    @property
    def validation_sources(self) -> list[str]:
        """What a second one serves, whose whole text is for validation; none where that is held
        out of the training text."""
        return []

    @property
    def held_out_fraction(self) -> float:
        """Share of the training text's documents that is not trained on."""
        return 0.0 if self.validation_sources else self.validation_fraction

    @property
    def embedded_options(self) -> dict[str, Any]:
        """How that streamer reads them."""
        return {}

    @property
    def urls(self) -> list[str]:
        """Addresses of a streamer that runs already."""
        return []

    def client(
        self, urls: list[str], token: str | None, say: Callable[[str], None]
    ) -> StreamClient | EirClient:
        """A client of the streamer at these addresses, `urls` or an embedded one's.

        `token` is an embedded one's. `say` is told, one line each, what a person should know.
        """
        return StreamClient(urls, token)


@dataclass
class ShuffledConfig(DataConfig):
    """`data=sample`, and what options have whose order the run decides."""

    shuffle_shards: int
    """Shards whose blocks are shuffled together; more mix better and start later."""
    seed: int
    """Seed of the order; follows the run's seed."""

    def problems(self) -> list[str]:
        found, shards, most = super().problems(), self.shuffle_shards, MAX_SHUFFLE_SHARDS
        if not 1 <= shards <= most:
            found.append(f"data.shuffle_shards={shards} must be between 1 and {most}")
        if not 0 <= self.seed < 2**53:
            found.append(f"data.seed={self.seed} must be between 0 and 2^53 - 1")
        return found


@dataclass
class EmbeddedConfig(ShuffledConfig):
    """What options have whose corpus is served by a streamer that the run starts."""

    column: str
    """Column of a parquet file or field of a jsonl line that holds the text."""
    on_bad_document: str
    """`error` ends the run at a document that cannot be read and names it, `skip` leaves it out."""
    validation_source: str | None
    """Text to validate on, a source as those to train on: all of it, and nothing is held out of
    those. Null holds out `validation_fraction` of them."""

    def problems(self) -> list[str]:
        found, other = super().problems(), self.validation_source
        if self.on_bad_document not in ON_BAD_DOCUMENT:
            words = ", ".join(ON_BAD_DOCUMENT)
            found.append(f"data.on_bad_document={self.on_bad_document} must be one of {words}")
        if other in self.trained_on:
            found.append(f"data.validation_source={other} is trained on; name other text")
        return found

    @property
    def trained_on(self) -> list[str]:
        """The sources to train on, without weights."""
        return []

    @property
    def embedded_sources(self) -> list[str]:
        return self.trained_on

    @property
    def validation_sources(self) -> list[str]:
        return [] if self.validation_source is None else [self.validation_source]

    @property
    def embedded_options(self) -> dict[str, Any]:
        return {"column": self.column, "on_bad_document": self.on_bad_document}


@dataclass
class LocalConfig(EmbeddedConfig):
    """`data=local`: a corpus of the user's. `data=fineweb`: one of the Hugging Face hub."""

    source: str
    """A file, a folder or a glob of .parquet, .jsonl and .txt, plain or .gz or .zst, local or
    by URL: hf://, s3://, http://, https://."""

    @property
    def trained_on(self) -> list[str]:
        return [self.source]


@dataclass
class InstructionsConfig(LocalConfig):
    """`data=instructions`: prompts and responses, of which the responses alone are learned.

    `column` holds the responses.
    """

    prompt: list[str]
    """The prompt, piece by piece, with {column} where a column comes. A piece whose column is
    empty is left out. `generate` and the like put what they are given in place of the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            Template(self.prompt)
        except ValueError as error:
            raise ValueError(f"data.prompt {error}") from error

    @property
    def embedded_options(self) -> dict[str, Any]:
        return {**super().embedded_options, "prompt": tuple(self.prompt)}


@dataclass
class MixConfig(EmbeddedConfig):
    """`data=mix`: several corpora at once."""

    sources: list[str]
    """Files, folders, globs or URLs, as in `data=local`."""
    weights: list[float] | None
    """Share of the blocks that come from each source; null is the same for all. A source whose
    text is used up begins anew, at its own pace."""

    def problems(self) -> list[str]:
        found, num_sources = super().problems(), len(self.sources)
        if len(set(self.sources)) < max(1, num_sources):
            found.append("data.sources must name at least one source, and none twice")
        if self.weights is not None and len(self.weights) != num_sources:
            found.append(f"data.weights has {len(self.weights)} weights for {num_sources} sources")
        if any(not 0 < weight < math.inf for weight in self.weights or []):
            found.append(f"data.weights={self.weights} must be above 0")
        return found

    @property
    def trained_on(self) -> list[str]:
        return self.sources

    @property
    def embedded_sources(self) -> list[str]:
        weights = self.weights or [1.0] * len(self.sources)
        return [f"{s}={weight}" for s, weight in zip(self.sources, weights, strict=True)]


@dataclass
class ServerConfig(DataConfig):
    """What options have whose text comes from a server that runs already."""

    url: str | list[str]
    """Its address, ws://HOST:PORT/ws, as `python -m streamer` prints it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_addresses(self.url)

    @property
    def embedded_sources(self) -> list[str]:
        return []

    @property
    def urls(self) -> list[str]:
        return read_addresses(self.url)


@dataclass
class RemoteConfig(ServerConfig, ShuffledConfig):
    """`data=remote`: a streamer, or a list of several that serve the same, any of which will do."""

    token_file: str | None
    """File whose first line is the token that the streamer asks for; null takes the environment
    variable BABYGPT_STREAM_TOKEN, if there is one."""
    ca_file: str | None
    """PEM certificates that a wss:// address is verified against; null takes the system's."""

    def client(
        self, urls: list[str], token: str | None, say: Callable[[str], None]
    ) -> StreamClient | EirClient:
        if self.token_file is not None:
            token = read_tokens(Path(self.token_file), "data.token_file")[0]
        return StreamClient(shuffled(urls), token, ca_file=self.ca_file)


@dataclass
class EirConfig(ServerConfig):
    """`data=eir`: any server of EIR's protocol 1.0. It decides the order, and can not go back.

    A token that it asks for comes from the environment, BABYGPT_STREAM_TOKEN.
    """

    batch_size: int
    """Samples a request. EIR's own text server loses text between two requests, so ask for
    many: of 512-word samples 2 % of the words at 64 a request, 0.3 % at 256."""
    output: str | None
    """The server's output that is text; null is its first of type sequence."""
    separator: str | None
    """Word that the server writes between the documents inside a sample; becomes the token
    that ends a text. Null takes samples as they are."""
    reset: bool
    """Whether to rewind a server that has ended and does not begin again by itself. It moves
    all clients of that server to its beginning, so only where no other run uses it."""

    def problems(self) -> list[str]:
        found, size = super().problems(), self.batch_size
        if isinstance(self.url, list):
            found.append("data=eir takes one data.url, since the order is that server's own")
        if not 1 <= size <= MAX_BATCH_SIZE:
            found.append(f"data.batch_size={size} must be between 1 and {MAX_BATCH_SIZE}")
        return found

    def client(
        self, urls: list[str], token: str | None, say: Callable[[str], None]
    ) -> StreamClient | EirClient:
        say(
            "note: data=eir gives text in the server's order from where it stands, a place that "
            "all its clients share; no exact resume"
        )
        (url,) = urls
        return EirClient(
            url,
            batch_size=self.batch_size,
            output=self.output,
            separator=self.separator,
            may_reset=self.reset,
            notice=lambda line: say(f"note: {line}"),
        )


DATA: dict[str, type[DataConfig]] = {
    "sample": ShuffledConfig,
    "local": LocalConfig,
    "fineweb": LocalConfig,
    "instructions": InstructionsConfig,
    "mix": MixConfig,
    "remote": RemoteConfig,
    "eir": EirConfig,
}
"""The dataclass of each option of group `data`."""
