"""What it costs to list and to read parquet files made as FineWeb's are.

    python tests/streamer/scale_listing.py

Files of FineWeb's columns and row groups, with the statistics that pyarrow writes by itself, but
with few rows, so that the footers have their real size and the pages not. Listed from the disk and
from moto's S3 server. Prints one JSON object.
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

from streamer.cache import TokenCache
from streamer.sources import parquet
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

NUM_FILES = 8
NUM_ROW_GROUPS = 998
"""998 thousand rows a file, a thousand a row group."""
NUM_ROWS = 8
NUM_READ = 16
MEAN_BYTES, DEVIATION = 3100, 1.0
"""Of a document's length, taken as log-normal: only that of the first and the last in a row group's
alphabet are in the footer, and those above 4 KiB are left out there."""
BUCKET = "corpus"
CRAWL = "s3://commoncrawl/crawl-data/CC-MAIN-2024-10/segments/1707947473347.0/warc/"
LETTERS = "etaoinshrdlucmfwypvbgkjqxz      "


def row_group(chance: random.Random) -> dict[str, list[Any]]:
    """Rows of FineWeb's columns."""

    def letters(count: int) -> str:
        return "".join(chance.choices(LETTERS, k=count))

    rows = range(NUM_ROWS)
    return {
        "text": [
            letters(
                max(50, int(MEAN_BYTES * chance.lognormvariate(-(DEVIATION**2) / 2, DEVIATION)))
            )
            for _ in rows
        ],
        "id": [f"<urn:uuid:{chance.getrandbits(128):036x}>" for _ in rows],
        "dump": ["CC-MAIN-2024-10" for _ in rows],
        "url": [f"https://www.{letters(12)}.com/{letters(40)}" for _ in rows],
        "date": [f"2024-02-21T00:00:{chance.randrange(60):02}Z" for _ in rows],
        "file_path": [f"{CRAWL}CC-MAIN-20240220211055-{row:036}.warc.gz" for row in rows],
        "language": ["en" for _ in rows],
        "language_score": [chance.random() for _ in rows],
        "token_count": [chance.randrange(50, 10_000) for _ in rows],
    }


def write_file(path: Path) -> int:
    """Writes a file and returns the bytes of its footer."""
    chance = random.Random(path.name)
    batches = (pa.RecordBatch.from_pydict(row_group(chance)) for _ in range(NUM_ROW_GROUPS))
    first = next(batches)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    with open(path, "rb") as file:
        return len(parquet.read_tail(path.name, file, path.stat().st_size))


def list_source(folder: Path, address: str) -> tuple[dict[str, float], Shelf, Any]:
    """Lists a source with a new shelf: what that took, a file."""
    shelf = Shelf(TokenCache(folder).disk)
    start, start_cpu = time.perf_counter(), time.process_time()
    listing = shelf.list_source(SourceSpec(address))
    figures = {
        "seconds": round((time.perf_counter() - start) / NUM_FILES, 4),
        "cpu_seconds": round((time.process_time() - start_cpu) / NUM_FILES, 4),
        "requests": shelf.counters["requests"] / NUM_FILES,
        "fetched_bytes": shelf.counters["fetched_bytes"] / NUM_FILES,
    }
    return figures, shelf, listing


def measure(folder: Path) -> dict[str, Any]:
    """All figures."""
    corpus = folder / "corpus"
    corpus.mkdir()
    footers = [write_file(corpus / f"{number:03}_00000.parquet") for number in range(NUM_FILES)]
    time.sleep(2.1)  # files that may still change are hashed each time
    hashing, _, _ = list_source(folder / "local", str(corpus))
    known, _, _ = list_source(folder / "local", str(corpus))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for path in corpus.iterdir():
            client.upload_file(str(path), BUCKET, path.name)
        cold, shelf, listing = list_source(folder / "s3", f"s3://{BUCKET}/*.parquet")
        warm, _, _ = list_source(folder / "s3", f"s3://{BUCKET}/*.parquet")
        before = shelf.counters["requests"]
        for index in range(0, len(listing.shards), len(listing.shards) // NUM_READ):
            shelf.read_shard(listing.shards[index], listing.spec)
        num_read = len(range(0, len(listing.shards), len(listing.shards) // NUM_READ))
        reads = (shelf.counters["requests"] - before) / num_read
        shelf.close()
    finally:
        server.stop()
    return {
        "files": NUM_FILES,
        "row_groups_a_file": NUM_ROW_GROUPS,
        "footer_bytes_a_row_group": round(statistics.mean(footers) / NUM_ROW_GROUPS),
        "footer_bytes_a_file": round(statistics.mean(footers)),
        "local_first": hashing,
        "local_again": known,
        "s3_first": cold,
        "s3_again": warm,
        "s3_requests_a_shard": reads,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name)), indent=2))
