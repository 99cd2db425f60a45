"""The tables of docs/scaling.md: python docs/scaling.py.

Each input says where it is from; what is computed from them is a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf

from babygpt_exp.flops import flops_per_token
from babygpt_exp.model import ARCHITECTURES, ModelConfig, build_model
from babygpt_exp.options import CONF

MODELS = ("nano", "baby", "small", "medium", "gpt2")
GPUS = (8, 64, 1024)
VOCAB_SIZE = 8192
"""Of `tokenizer=bpe`."""


@dataclass(frozen=True)
class Inputs:
    """What is measured, cited or assumed."""

    peak_flops: float = 989.4e12
    """Of one H100 SXM, bfloat16, dense. Cited: [h100]."""
    utilization: float = 0.40
    """Assumed; nanochat reaches 0.41 with 12 layers on H100 (its dev/LOG.md)."""
    served_tokens_per_s: float = 49e6
    """Of a replica, to four clients on the same two busy cores. Measured: `streamer.bench`."""
    tokenized_tokens_per_s: float = 0.83e6
    """Of one core. Measured: the same."""
    load_seconds_per_token: float = 1.1e-9
    """Processor time to bring a cached shard into memory and check it. Measured here."""
    frame_bytes: int = 240
    """A frame without its rows. Measured: `encode_frame` with cursors of 10**10 blocks."""
    token_bytes: int = 2
    """uint16, up to a vocabulary of 65,536."""
    rank_batch_tokens: int = 32_768
    """Of a rank's part of a batch. Assumed."""
    connections: int = 256
    """Of a replica, by default; a rank has two, for training and validation text."""
    num_bytes: float = 43_056.6e9
    """FineWeb 1.1 in parquet. Cited: [card]."""
    num_tokens: float = 15_835.2e9
    """The same in GPT-2's tokens. Cited: [card]."""
    file_bytes: float = 2.15e9
    """Of its files. Cited: [files]."""
    file_row_groups: int = 998
    """998 thousand rows a file [rows], a thousand a row group [groups]. Cited."""
    footer_bytes: float = 3.9e6
    """Of such a file. Measured: `python tests/streamer/scale_listing.py`."""
    file_cpu_seconds: float = 0.016
    """To parse a footer and hash its row groups. Measured: the same."""
    file_requests: int = 2
    """Ranges read of a file while listing. Measured: the same."""
    request_seconds: float = 0.15
    """Of a small range of S3: 100 to 200 ms. Cited: [s3]."""
    num_requests: int = 32
    """At once. The streamer's `NUM_REQUESTS`."""
    hub_requests_per_s: float = 5_000 / 300
    """Files resolved for a free account. Cited: [hub]."""
    get_dollars: float = 0.0004 / 1000
    """A GET of S3. Cited: [price]."""
    link_bits_per_s: float = 10e9
    """Of a replica's network. Assumed."""

    @property
    def num_files(self) -> int:
        """FineWeb's, at least."""
        return math.ceil(self.num_bytes / self.file_bytes)

    @property
    def num_shards(self) -> int:
        """Row groups of all files."""
        return self.num_files * self.file_row_groups

    @property
    def shard_tokens(self) -> float:
        """Tokens of a row group."""
        return self.num_tokens / self.num_shards

    @property
    def bytes_per_token(self) -> float:
        """What a token costs on the network: a token, a 1,024th of the next block's, its frame."""
        return self.token_bytes * 1025 / 1024 + self.frame_bytes / self.rank_batch_tokens


def tokens_per_s(flops: float, num_gpus: int, inputs: Inputs) -> float:
    """What some GPUs use up, by utilization alone: no other limit is counted."""
    return num_gpus * inputs.utilization * inputs.peak_flops / flops


def replicas(rate: float, num_gpus: int, inputs: Inputs) -> int:
    """Enough for the tokens and for the connections."""
    by_tokens = math.ceil(rate / inputs.served_tokens_per_s)
    return max(by_tokens, math.ceil(2 * num_gpus / inputs.connections))


def listing_seconds(inputs: Inputs) -> dict[str, float]:
    """Parts of the time that FineWeb's listing takes."""
    requests = inputs.num_files * inputs.file_requests
    return {
        "waiting for S3": requests * inputs.request_seconds / inputs.num_requests,
        "receiving footers": 8 * inputs.num_files * inputs.footer_bytes / inputs.link_bits_per_s,
        "parsing and hashing": inputs.num_files * inputs.file_cpu_seconds,
        "the Hub's limit instead": requests / inputs.hub_requests_per_s,
    }


def model_flops() -> dict[str, float]:
    """FLOPs a token of each model in `arch=modern`."""
    found = {}
    arch = ARCHITECTURES["modern"](**_option("arch", "modern"))
    for name in MODELS:
        config = ModelConfig(**_option("model", name))
        with torch.device("meta"):
            found[name] = flops_per_token(config, build_model(config, arch, VOCAB_SIZE))
    return found


def _option(group: str, name: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(value: float) -> str:
    """Two digits that matter, or all before the point."""
    if value and abs(value) < 10:
        return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:,.0f}"


def report(inputs: Inputs, flops: dict[str, float]) -> str:
    """All tables."""
    sizes = [f"{count:,} GPUs" for count in GPUS]
    rates = {
        name: [tokens_per_s(each, count, inputs) for count in GPUS] for name, each in flops.items()
    }

    def rows(factor: float) -> list[list[str]]:
        return [[f"`{name}`", *(short(rate * factor) for rate in rates[name])] for name in flops]

    demand = [
        [f"`{name}`", short(flops[name] / 1e6), short(tokens_per_s(flops[name], 1, inputs) / 1e6)]
        + [short(rate / 1e6) for rate in rates[name]]
        for name in flops
    ]
    fleet = [
        [f"`{name}`"]
        + [
            str(replicas(rate, count, inputs))
            for rate, count in zip(rates[name], GPUS, strict=True)
        ]
        for name in flops
    ]
    listing = [[name, short(value)] for name, value in listing_seconds(inputs).items()]
    parts = [
        ("Million tokens a second", ["model", "MFLOP a token", "1 GPU", *sizes], demand),
        ("Replicas", ["model", *sizes], fleet),
        ("Gbit/s", ["model", *sizes], rows(8e-9 * inputs.bytes_per_token)),
        ("Cores that tokenize", ["model", *sizes], rows(1 / inputs.tokenized_tokens_per_s)),
        ("GETs a second", ["model", *sizes], rows(1 / inputs.shard_tokens)),
        ("Cores that load", ["model", *sizes], rows(inputs.load_seconds_per_token)),
        ("Seconds to list FineWeb", ["part", "seconds"], listing),
        ("FineWeb", ["what", "how much"], fineweb(inputs)),
    ]
    return "\n\n".join(f"{title}\n\n{table(head, body)}" for title, head, body in parts)


def fineweb(inputs: Inputs) -> list[list[str]]:
    """The plan of all of it."""
    requests = inputs.num_files * inputs.file_requests
    return [
        ["files", f"{inputs.num_files:,}"],
        ["shards (row groups)", f"{inputs.num_shards:,}"],
        ["tokens a shard", f"{inputs.shard_tokens:,.0f}"],
        ["footers, GB", short(inputs.num_files * inputs.footer_bytes / 1e9)],
        ["GETs to list", f"{requests:,}"],
        ["dollars to list", short(requests * inputs.get_dollars)],
        ["dollars of GETs an epoch", short(inputs.num_shards * inputs.get_dollars)],
        ["tokens in the cache, TB", short(inputs.num_tokens * inputs.token_bytes / 1e12)],
        ["core hours to tokenize", short(inputs.num_tokens / inputs.tokenized_tokens_per_s / 3600)],
    ]


if __name__ == "__main__":
    print(report(Inputs(), model_flops()))
