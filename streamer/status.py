"""The status page: what a server does now, for people and as JSON.

The page needs nothing from elsewhere, and its links are relative, so that it also works behind a
proxy that serves it under a path of its own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from streamer import __version__
from streamer.metrics import Metrics, StreamRecord, rate, resident_bytes
from streamer.quantities import duration, plural, quantity, size
from streamer.sources.listing import Listing

TEMPLATE = Path(__file__).with_name("status.html")
SHOWN_DIGITS = 12
"""Of a hash: enough to tell two apart."""
SHOWN_STREAMS = 256
"""Streams that the page lists; the JSON has all."""
SHORTEST_CHART_SECONDS = 60
"""Width of the chart at first; it grows to metrics.HISTORY_SECONDS."""
CHART_WIDTH, CHART_HEIGHT = 720, 84
STILL_SECONDS = 2
"""A shorter wait is not worth a word."""
WORDS = {
    "opening": "preparing",
    "data": "waiting for data",
    "credit": "waiting for credit",
    "sending": "sending",
}
"""What the states of a stream are called."""


def status(metrics: Metrics, listings: Sequence[Listing], num_tokenizers: int) -> dict[str, Any]:
    """Everything that the page shows, as JSON has it."""
    connections = sorted(metrics.connections, key=lambda connection: connection.began)
    protocols = [connection.protocol for connection in connections]
    hits, misses = sum(metrics.cache_hits.values()), sum(metrics.cache_misses.values())
    return {
        "version": __version__,
        "uptime_seconds": round(time.monotonic() - metrics.began, 1),
        "tokens_per_second": round(rate(metrics.recent)),
        "rates": list(metrics.rates),
        "tokens_sent": metrics.num_tokens,
        "bytes_sent": metrics.num_bytes,
        "frames_sent": metrics.num_frames,
        "connections": {name: protocols.count(name) for name in ("v2", "eir")},
        "connections_total": metrics.num_connections,
        "opens_total": metrics.num_opens,
        "memory_bytes": resident_bytes(),
        "cpu_seconds": round(time.process_time(), 1),
        "tokenizers": num_tokenizers,
        "shards": {
            "prepared": metrics.num_shards_prepared,
            "preparing": metrics.num_shards_preparing,
            "cache_hits": hits,
            "cache_misses": misses,
        },
        "source_retries": metrics.num_source_retries,
        "skipped_documents": metrics.num_skipped_documents,
        "sources": [_source(listing) for listing in listings],
        "streams": [
            {"peer": connection.peer, "protocol": connection.protocol, **_stream(stream)}
            for connection in connections
            for stream in connection.streams.values()
        ],
        "refused": dict(sorted(metrics.refused.items())),
        "errors": dict(sorted(metrics.errors.items())),
        "last_errors": [vars(error) for error in reversed(metrics.last_errors)],
    }


def _source(listing: Listing) -> dict[str, Any]:
    return {
        "name": listing.name,
        "weight": listing.spec.weight,
        "num_files": len(listing.snapshot),
        "num_shards": len(listing.shards),
        "num_bytes": listing.num_bytes,
        "fingerprint": listing.fingerprint,
    }


def _stream(stream: StreamRecord) -> dict[str, Any]:
    return {
        "plan_id": stream.plan_id,
        "split": stream.split,
        "rank": stream.rank,
        "world": stream.world,
        "batch": stream.batch,
        "cursor": stream.cursor.payload() if stream.cursor is not None else None,
        "tokens": stream.num_tokens,
        "tokens_per_second": round(stream.tokens_per_second),
        "state": stream.state,
        "state_seconds": round(stream.state_seconds, 1),
    }


def headers(nonce: str) -> dict[str, str]:
    """What keeps the page and its address, which may hold a token, to itself."""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def page(found: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The page and its headers."""
    nonce = secrets.token_urlsafe(16)
    text = TEMPLATE.read_text("utf-8").replace("@NONCE@", nonce)
    text = text.replace("@VERSION@", escape(str(found["version"])))
    return text.replace("@MAIN@", "\n".join(_main(found))), headers(nonce)


def _main(found: dict[str, Any]) -> Iterable[str]:
    yield _rate(found)
    yield f'<div class="tiles">{"".join(_tiles(found))}</div>'
    yield f"<h2>{plural(len(found['streams']), 'open stream')}</h2>"
    yield _table(STREAM_COLUMNS, found["streams"][:SHOWN_STREAMS], "Nobody is reading now.")
    yield f"<h2>{plural(len(found['sources']), 'source')}</h2>"
    yield _table(SOURCE_COLUMNS, found["sources"], "No source.")
    yield _trouble(found)
    yield f"<h2>Errors{_counts(found['errors'])}</h2>"
    yield _errors(found["last_errors"])
    if found["refused"]:
        yield f'<p class="soft">Refused connections{_counts(found["refused"])}</p>'


def _trouble(found: dict[str, Any]) -> str:
    """What sources made necessary, if anything."""
    words = []
    if found["skipped_documents"]:
        words.append(plural(found["skipped_documents"], "bad document") + " left out")
    if found["source_retries"]:
        words.append(plural(found["source_retries"], "read") + " tried again")
    return f'<p class="soft">{", ".join(words)}</p>' if words else ""


def _rate(found: dict[str, Any]) -> str:
    seconds = max(SHORTEST_CHART_SECONDS, len(found["rates"]))
    peak = max(found["rates"], default=0)
    return (
        '<section class="card rate"><div class="row">'
        f"<strong>{quantity(found['tokens_per_second'])}</strong> tokens a second "
        f'<span class="soft right">the last {duration(seconds)}, at most {quantity(peak)}</span>'
        f"</div>{_chart(found['rates'])}</section>"
    )


def _chart(rates: Sequence[float]) -> str:
    """The rates as a curve that ends at the right."""
    top = max([*rates, 1.0])
    step = CHART_WIDTH / (max(SHORTEST_CHART_SECONDS, len(rates)) - 1)
    room = CHART_HEIGHT - 4
    begin = CHART_WIDTH - step * max(0, len(rates) - 1)
    points = " ".join(
        f"{begin + number * step:.1f},{CHART_HEIGHT - 1 - value / top * room:.1f}"
        for number, value in enumerate(rates)
    )
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" preserveAspectRatio="none" role="img" '
        'aria-label="tokens a second over the last minutes">'
        f'<polygon class="area" points="{begin:.1f},{CHART_HEIGHT} {points} '
        f'{CHART_WIDTH},{CHART_HEIGHT}"/>'
        f'<polyline class="curve" points="{points}"/></svg>'
    )


def _tiles(found: dict[str, Any]) -> Iterable[str]:
    shards, connections = found["shards"], found["connections"]
    looks = shards["cache_hits"] + shards["cache_misses"]
    share = f"{100 * shards['cache_hits'] / looks:.0f} % were cached" if looks else "none asked for"
    if shards["preparing"]:
        share = f"{shards['preparing']} being prepared"
    tiles = [
        ("Tokens sent", quantity(found["tokens_sent"]), f"{size(found['bytes_sent'])}"),
        (
            "Connections",
            str(sum(connections.values())),
            f"{connections['v2']} v2, {connections['eir']} EIR",
        ),
        ("Shards tokenized", str(shards["prepared"]), share),
        ("Tokenizers", str(found["tokenizers"]), "uploaded"),
        ("Memory", size(found["memory_bytes"]), f"CPU {duration(found['cpu_seconds'])}"),
        (
            "Up for",
            duration(found["uptime_seconds"]),
            plural(found["opens_total"], "stream opened", "streams opened"),
        ),
    ]
    for title, value, note in tiles:
        yield (
            f'<div class="card tile"><div>{title}</div><b>{escape(value)}</b>'
            f"<small>{escape(note)}</small></div>"
        )


def _position(cursor: dict[str, Any] | None) -> str:
    """Where a stream is, in words."""
    if cursor is None:
        return ""
    words = []
    for place in cursor["sources"]:
        words.append(f"{place['epoch']}.{place['group']}.{place['block']}")
    return ", ".join(words)


def _state(stream: dict[str, Any]) -> str:
    """What a stream waits for, unless it is on its way."""
    state, seconds = stream["state"], stream["state_seconds"]
    if seconds < STILL_SECONDS and stream["tokens_per_second"]:
        return '<span class="pill">streaming</span>'
    word = WORDS.get(state, state)
    if seconds >= STILL_SECONDS:
        word += f" for {duration(seconds)}"
    return f'<span class="pill {escape(state)}">{escape(word)}</span>'


Column = tuple[str, str, Any]
"""Title, classes, and what makes the cell's HTML of a row."""

STREAM_COLUMNS: list[Column] = [
    ("Client", "", lambda row: escape(row["peer"])),
    ("Plan", "", lambda row: f"<code>{escape(row['plan_id'][:SHOWN_DIGITS])}</code>"),
    ("Split", "", lambda row: escape(row["split"])),
    ("Rank", "number", lambda row: f"{row['rank']} of {row['world']}"),
    ("Batch", "number", lambda row: f"{row['batch']}"),
    ("Epoch.group.block", "wide", lambda row: escape(_position(row["cursor"]))),
    ("Tokens", "number", lambda row: quantity(row["tokens"])),
    ("Tokens/s", "number", lambda row: quantity(row["tokens_per_second"])),
    ("", "wide", _state),
]
SOURCE_COLUMNS: list[Column] = [
    ("Name", "name wide", lambda row: escape(row["name"])),
    ("Weight", "number", lambda row: f"{row['weight']:g}"),
    ("Files", "number", lambda row: f"{row['num_files']:,}"),
    ("Shards", "number", lambda row: f"{row['num_shards']:,}"),
    ("Size", "number", lambda row: size(row["num_bytes"])),
    (
        "Fingerprint",
        "wide",
        lambda row: f"<code>{escape(row['fingerprint'][:SHOWN_DIGITS])}</code>",
    ),
]


def _table(columns: Sequence[Column], rows: Sequence[dict[str, Any]], empty: str) -> str:
    if not rows:
        return f'<div class="card empty">{empty}</div>'
    head = "".join(f'<th class="{classes}">{title}</th>' for title, classes, _ in columns)
    body = ""
    for row in rows:
        cells = ""
        for number, (title, classes, cell) in enumerate(columns):
            label = f' data-label="{title}"' if title and number else ""
            cells += f'<td class="{classes}"{label}>{cell(row)}</td>'
        body += f"<tr>{cells}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="card scroll">{table}</div>'


def _counts(counts: dict[str, int]) -> str:
    words = [f"{escape(name)} {number:,}" for name, number in counts.items()]
    return ": " + ", ".join(words) if words else ""


def _errors(errors: Sequence[dict[str, Any]]) -> str:
    if not errors:
        return '<div class="card empty">None so far.</div>'
    items = ""
    for error in errors:
        when = time.strftime("%H:%M:%S UTC", time.gmtime(error["time"]))
        name = error["code"] + (f" {error['field']}" if error["field"] else "")
        items += (
            f'<li><span class="soft">{when}</span><span class="bad">{escape(name)}</span>'
            f"<span>{escape(error['message'])}</span>"
            f'<span class="soft">{escape(error["peer"])}</span></li>'
        )
    return f'<ol class="card">{items}</ol>'
