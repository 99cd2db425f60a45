"""What the phases share: a corpus, a tokenizer, a plan, servers, and the undisturbed stream."""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "streamer")]

from fault_proxy import FaultProxy as FaultProxy  # noqa: E402
from fault_proxy import Toxics as Toxics  # noqa: E402
from measure import Report  # noqa: E402
from streamer_harness import ServerProcess, make_plan, sha256  # noqa: E402

from streamer.bench import train_tokenizer  # noqa: E402
from streamer.client import Stream, StreamClient  # noqa: E402

NUM_ROW_GROUPS = 20
MEGABYTES = 4
KEPT_LINES = 50


class Server(ServerProcess):
    """A server whose log is read all the time, so that a full pipe never makes it wait."""

    _draining: threading.Thread | None = None

    def __init__(self, source: Path, cache_dir: Path, port: int = 0) -> None:
        super().__init__(source, cache_dir, port=port)
        self.lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._draining = threading.Thread(target=self._drain, daemon=True)
        self._draining.start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def kill(self) -> None:
        """Ends it as a power cut does."""
        if self._draining is None:
            super().kill()
        elif self.process.returncode is None:
            self.process.kill()
            self.process.wait(10)
            self._draining.join(10)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()


class Stage:
    """Everything that a phase needs; `close` ends all servers."""

    def __init__(self, folder: Path, report: Report, seed: int) -> None:
        self.folder = folder
        self.report = report
        self.seed = seed
        self.corpus = make_corpus(folder / "corpus.parquet", MEGABYTES, seed)
        documents = pq.read_table(self.corpus)["text"].to_pylist()
        self.tokenizer_json = train_tokenizer(documents[:500])
        self.plan: dict[str, Any] = make_plan(self.tokenizer_json, sequence_length=128)
        self._servers: list[Server] = []
        self._lock = threading.Lock()

    def server(self, *, port: int = 0, cache: str = "cache", source: Path | None = None) -> Server:
        """Starts a server; of all with one `cache` the folder is the same."""
        started = Server(source or self.corpus, self.folder / cache, port)
        with self._lock:
            self._servers = [s for s in self._servers if s.process.returncode is None] + [started]
        return started

    def client(self, *servers: Server, deadline_seconds: float = 60.0) -> StreamClient:
        """A client that has made the tokenizer known to one of the servers."""
        client = StreamClient([server.url for server in servers], deadline_seconds=deadline_seconds)
        client.upload_tokenizer(self.tokenizer_json)
        return client

    def open(self, client: StreamClient, **options: Any) -> Stream:
        """The stream that all phases read unless they say otherwise."""
        asked: dict[str, Any] = {"plan": self.plan, "split": "train", "batch": 16}
        return client.open(**(asked | options))

    def check(self, digest: str, num_batches: int, **options: Any) -> None:
        """Compares a stream with an undisturbed one of the same options."""
        server = self.server()
        try:
            with self.client(server) as client:
                wanted = sha256(islice(self.open(client, **options), num_batches))
        finally:
            server.kill()
        note = f"SHA-256 of {num_batches} batches with their cursors"
        self.report.equal("sha256", digest, wanted, note)

    def close(self) -> None:
        """Ends all servers."""
        with self._lock:
            for server in self._servers:
                server.kill()


def make_corpus(path: Path, megabytes: int, seed: int) -> Path:
    """Made-up words, the frequent ones often, as parquet of equal row groups."""
    source = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(source.choices(letters, k=source.randint(2, 9))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    documents, num_bytes = [], 0
    while num_bytes < megabytes << 20:
        documents.append(" ".join(source.choices(words, weights, k=source.randint(20, 400))))
        num_bytes += len(documents[-1])
    group_rows = -(-len(documents) // NUM_ROW_GROUPS)
    pq.write_table(pa.table({"text": documents}), path, row_group_size=group_rows)
    return path
