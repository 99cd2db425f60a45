"""Prometheus' text format 0.0.4 of what a server counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from streamer import __version__
from streamer.metrics import Metrics, resident_bytes

PREFIX = "streamer_"

Family = tuple[str, str, str, str, Mapping[str, float] | float]
"""Name, kind, description, label, and a value for each of the label's, or one without."""


def prometheus(metrics: Metrics) -> str:
    """All metrics in Prometheus' text format 0.0.4."""
    protocols = Counter(connection.protocol for connection in metrics.connections)
    families: list[Family] = [
        ("tokens_sent_total", "counter", "Tokens sent.", "", metrics.num_tokens),
        ("frames_sent_total", "counter", "Data frames sent.", "", metrics.num_frames),
        ("bytes_sent_total", "counter", "Bytes of data frames.", "", metrics.num_bytes),
        ("samples_sent_total", "counter", "Texts sent to clients of EIR.", "", metrics.num_samples),
        ("opens_total", "counter", "Streams opened.", "", metrics.num_opens),
        ("streams_open", "gauge", "Streams open now.", "", len(list(metrics.streams()))),
        (
            "connections_open",
            "gauge",
            "WebSockets open now.",
            "protocol",
            {"v2": protocols["v2"], "eir": protocols["eir"]},
        ),
        ("connections_total", "counter", "WebSockets opened.", "", metrics.num_connections),
        ("refused_total", "counter", "Connections refused.", "reason", metrics.refused),
        ("errors_total", "counter", "Errors that clients were told.", "code", metrics.errors),
        (
            "credit_wait_seconds_total",
            "counter",
            "Time that streams waited for credit.",
            "",
            metrics.waited("credit"),
        ),
        (
            "data_wait_seconds_total",
            "counter",
            "Time that streams waited for data.",
            "",
            metrics.waited("opening") + metrics.waited("data"),
        ),
        (
            "send_wait_seconds_total",
            "counter",
            "Time that streams waited for the network.",
            "",
            metrics.waited("sending"),
        ),
        ("shards_prepared_total", "counter", "Shards tokenized.", "", metrics.num_shards_prepared),
        (
            "shard_prepare_seconds_total",
            "counter",
            "Time spent on that.",
            "",
            metrics.shard_prepare_seconds,
        ),
        ("cache_hits_total", "counter", "Found in a cache.", "kind", metrics.cache_hits),
        ("cache_misses_total", "counter", "Not found there.", "kind", metrics.cache_misses),
        (
            "skipped_documents_total",
            "counter",
            "Bad documents left out.",
            "",
            metrics.num_skipped_documents,
        ),
        (
            "source_requests_total",
            "counter",
            "Reads of remote sources.",
            "",
            metrics.num_source_requests,
        ),
        (
            "source_bytes_total",
            "counter",
            "Bytes that they gave.",
            "",
            metrics.num_source_bytes,
        ),
        (
            "source_retries_total",
            "counter",
            "Reads of a source tried again.",
            "",
            metrics.num_source_retries,
        ),
        (
            "build_info",
            "gauge",
            "Always 1.",
            "version",
            {__version__: 1},
        ),
    ]
    return exposition(PREFIX, families)


def exposition(prefix: str, families: Iterable[Family], more: Iterable[str] = ()) -> str:
    """Families whose names begin with `prefix`, more lines, and what every process has."""
    usage = os.times()
    lines = [line for family in families for line in _lines(prefix + family[0], *family[1:])]
    lines += more
    for name, kind, value in (
        ("process_resident_memory_bytes", "gauge", resident_bytes()),
        ("process_cpu_seconds_total", "counter", usage.user + usage.system),
    ):
        lines += _lines(name, kind, "Of this process.", "", value)
    return "\n".join(lines) + "\n"


def _lines(
    name: str, kind: str, description: str, label: str, values: Mapping[str, float] | float
) -> Iterable[str]:
    yield f"# HELP {name} {description}"
    yield f"# TYPE {name} {kind}"
    if isinstance(values, Mapping):
        for key in sorted(values):
            yield f'{name}{{{label}="{_label(key)}"}} {values[key]:.15g}'
    else:
        yield f"{name} {values:.15g}"


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
