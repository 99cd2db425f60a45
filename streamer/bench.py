"""`python -m streamer.bench`: how fast text becomes tokens here, and how fast they are served."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from streamer.cli import Parser
from streamer.embedded import EmbeddedStreamer, EmbeddedStreamerError
from streamer.errors import one_line

VOCAB_SIZE = 8192
SEQUENCE_TOKENS = 512
TOKENIZER_DOCUMENTS = 2000
GENERATED_BYTES = 16 << 20
START_SECONDS = 120.0
CLIENT_SECONDS = 300.0
"""How long a client of the bench may take."""
LOOK_SECONDS = 0.5
"""Time between looks at whether a client died, which says nothing of that itself."""


class ClientError(Exception):
    """A client of the bench that does not give its figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON object; returns 0, 1 when something cannot be served, 2 for bad usage."""
    try:
        parser = build_parser()
        options = parser.parse_args(argv)
        if min(options.batch, options.seconds, options.repeats, *options.clients) <= 0:
            parser.error("--batch, --seconds, --repeats and --clients are above 0")
    except SystemExit as done:
        return int(done.code or 0)
    from streamer.client import StreamError

    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options, Path(folder)), indent=2))
    except (StreamError, EmbeddedStreamerError, ClientError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    return 0


def build_parser() -> Parser:
    """The options of `python -m streamer.bench`."""
    parser = Parser(
        prog="python -m streamer.bench",
        description="Measure how fast text becomes tokens here, and how fast they are served.\n"
        "Prints one JSON object.",
        examples=(
            "python -m streamer.bench",
            "python -m streamer.bench --source my_texts/ --clients 1 8 --seconds 2 --repeats 1",
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--source", help="corpus (default: 16 MB of generated words)")
    parser.add_argument("--column", default="text", help="its column or field (default: text)")
    parser.add_argument(
        "--batch", type=int, default=64, help=f"blocks of {SEQUENCE_TOKENS} tokens (default: 64)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run (default: 5)")
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=[1, 4, 16],
        metavar="N",
        help="clients that read at once, one run each (default: 1 4 16)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (default: 3)")
    return parser


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures; where there are repeats the median."""
    source = options.source or str(generate_corpus(folder / "corpus.jsonl"))
    with ExitStack() as stack:
        server = stack.enter_context(
            EmbeddedStreamer([source], column=options.column, cache_dir=folder / "cache")
        )
        bench = Bench(server, options)
        stack.callback(bench.close)
        figures = {"source": options.source or "generated", "batch": options.batch}
        return figures | bench.tokenize() | bench.first_batches() | bench.serve()


class Bench:
    """Measures one server with an empty cache."""

    def __init__(self, server: EmbeddedStreamer, options: argparse.Namespace) -> None:
        from streamer.client import StreamClient

        self._server = server
        self._options = options
        self._client = StreamClient([server.url], server.token)
        self._documents = self._client.documents(
            split="train", fraction=0.0, salt="", max_documents=TOKENIZER_DOCUMENTS
        )
        self._tokenizer_json = train_tokenizer(self._documents)
        self._plan = make_plan(self._client.upload_tokenizer(self._tokenizer_json))

    def close(self) -> None:
        """Ends the client."""
        self._client.close()

    def tokenize(self) -> dict[str, float]:
        """Tokens a second of one core, by the same code as the server's."""
        from streamer.tokens import TextTokenizer

        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = TextTokenizer(self._tokenizer_json)
        rates = []
        for _ in range(self._options.repeats):
            start, num_tokens = time.process_time(), 0
            for _, encoded in tokenizer.encode(self._documents):
                num_tokens += sum(map(len, encoded))
            rates.append(num_tokens / (time.process_time() - start))
        return {"tokenize_tokens_per_s": round(statistics.median(rates))}

    def first_batches(self) -> dict[str, float]:
        """Seconds from opening a stream to its first batch, then of a whole cold epoch."""
        start = time.perf_counter()
        batches = self._client.open(plan=self._plan, split="train", batch=1, epochs=1)
        next(batches)
        cold = time.perf_counter() - start
        num_tokens = sum(int((batch.lengths - 1).sum()) for batch in batches)
        epoch = time.perf_counter() - start
        warm = []
        for _ in range(self._options.repeats):
            start = time.perf_counter()
            stream = self._client.open(plan=self._plan, split="train", batch=1)
            next(stream)
            warm.append(time.perf_counter() - start)
            stream.close()
        return {
            "first_batch_seconds": round(cold, 4),
            "first_batch_cached_seconds": round(statistics.median(warm), 4),
            "cold_epoch_tokens_per_s": round(num_tokens / epoch),
        }

    def serve(self) -> dict[str, Any]:
        """Tokens a second that 1, 4 and 16 clients get in sum, and what it costs the server."""
        process = self._server.process_id
        memory = [resident_mb(process)]
        figures: dict[str, Any] = {}
        for num_clients in self._options.clients:
            rates, costs = [], []
            for _ in range(self._options.repeats):
                cpu = cpu_seconds(process)
                rate, num_tokens = self._drain(num_clients)
                rates.append(rate)
                costs.append((cpu_seconds(process) - cpu) / num_tokens * 1e6)
                memory.append(resident_mb(process))
            figures[f"serve_tokens_per_s_{num_clients}"] = round(statistics.median(rates))
            spread = [round(min(rates)), round(max(rates))]
            figures[f"serve_tokens_per_s_{num_clients}_range"] = spread
            if num_clients == 1:
                cost = round(statistics.median(costs), 5)
                figures["cpu_seconds_per_million_tokens"] = cost
        return figures | {"server_memory_mb": memory}

    def _drain(self, num_clients: int) -> tuple[float, int]:
        """The rate of some clients, each a process, that read at once; and all that they read."""
        options = self._options
        arguments = (self._plan, options.batch, options.seconds)
        counts = run_clients(num_clients, self._server.url, self._server.token, *arguments)
        return sum(count / seconds for count, seconds, _ in counts), sum(c[2] for c in counts)


def run_clients(num_clients: int, *arguments: Any) -> list[tuple[int, float, int]]:
    """What as many processes at once say of `drain(*arguments)`; raises ClientError."""
    context = multiprocessing.get_context("spawn")
    arguments += (context.Barrier(num_clients), results := context.Queue())
    deadline = time.monotonic() + CLIENT_SECONDS
    clients: list[SpawnProcess] = []
    counts: list[tuple[int, float, int]] = []
    try:
        for _ in range(num_clients):
            clients.append(context.Process(target=drain, args=arguments, daemon=True))
            clients[-1].start()
        while len(counts) < num_clients:
            with suppress(queue.Empty):
                counts.append(results.get(timeout=LOOK_SECONDS))
            codes = [client.exitcode for client in clients]
            if any(codes) or time.monotonic() > deadline:
                raise ClientError(f"a client of the bench gave no figures (exit codes {codes})")
        for client in clients:
            client.join(START_SECONDS)
    finally:
        for client in clients:
            client.kill()
            client.join()
    return counts


def drain(
    url: str,
    token: str,
    plan: dict[str, Any],
    batch: int,
    seconds: float,
    barrier: Barrier,
    results: Any,
) -> None:
    """One client: reads for some seconds, once all are ready."""
    from streamer.client import StreamClient

    with StreamClient([url], token) as client:
        stream = client.open(plan=plan, split="train", batch=batch)
        num_before = sum(next(stream).tokens[:, 1:].size for _ in range(4))
        barrier.wait(START_SECONDS)
        start, num_tokens = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            num_tokens += next(stream).tokens[:, 1:].size
        results.put((num_tokens, elapsed, num_tokens + num_before))
        stream.close()


def make_plan(tokenizer_hash: str) -> dict[str, Any]:
    """A plan with the values of `data=sample`."""
    return {
        "tokenizer": {"hash": tokenizer_hash, "eot_id": 0},
        "sequence_length": SEQUENCE_TOKENS,
        "validation": {"fraction": 0.05, "salt": "babygpt"},
        "shuffle": {"shards": 4, "seed": 1},
    }


def train_tokenizer(documents: list[str]) -> str:
    """A byte-level BPE, as a JSON."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return str(tokenizer.to_str())


def generate_corpus(path: Path) -> Path:
    """Documents of made-up words that are as frequent as words are (Zipf), always the same."""
    source = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    with open(path, "w") as file:
        while file.tell() < GENERATED_BYTES:
            text = " ".join(source.choices(words, weights, k=source.randint(50, 800)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process_id: int) -> float:
    """Memory of a process that is its own, without mapped files: RssAnon in MB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return round(int(line.split()[1]) / 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
