"""A run that trains behind nginx while replicas die: python tests/soak/replicas.py [--tokens N].

Three streamers share a bucket of moto's S3 server and no disk. One run trains undisturbed from a
streamer of its own. Then another trains through nginx, and every 5 s the oldest replica is killed,
and replaced by a new one with an empty cache. No step may be lost, and metrics.csv may differ in
nothing but times. Prints one JSON object; exits 1 where a figure is out of its bound.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import Report

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / folder) for folder in (".", "tests", "tests/streamer")]

from streamer_forks import STREAMERS, fork  # noqa: E402
from streamer_harness import ServerProcess  # noqa: E402
from streamer_replicas import NGINX, Replicas  # noqa: E402
from streamer_stores import BUCKET  # noqa: E402

from babygpt_exp.data.config import SAMPLE  # noqa: E402

KILL_SECONDS = 5.0
NUM_REPLICAS = 3
FEWEST_KILLS = 10
RUN_SECONDS = 1800.0
"""Until a run is given up."""
SOURCE = f"s3://{BUCKET}/*.parquet"
RUN = (
    *("-m", "babygpt_exp", "data=remote", "model=nano", "precision=32-true", "hardware=cpu"),
    *("hardware.compile=false", "logger=none", "run.batch_tokens=256", "run.log_every_tokens=256"),
    *("run.eval_tokens=4096", "sampling.max_new_tokens=16", "data.shuffle_shards=1"),
)
"""A row of metrics.csv for every step. Small steps, since 64 of them are fetched ahead."""
Rows = list[dict[str, str]]


class Training:
    """A run that is going on; `close` ends it."""

    def __init__(self, folder: Path, url: str, num_tokens: int) -> None:
        self.folder = folder
        options = [f"data.url={url}", f"run.max_tokens={num_tokens}", f"hydra.run.dir={folder}"]
        self.process = subprocess.Popen(
            [sys.executable, *RUN, *options],
            cwd=folder.parent,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @property
    def has_begun(self) -> bool:
        """Whether a step has been made."""
        path = self.folder / "metrics.csv"
        return path.exists() and path.read_text().count("\n") > 1

    def close(self) -> None:
        """Kills it where it still runs."""
        self.process.kill()
        self.process.wait(60)

    @property
    def summary(self) -> dict[str, Any]:
        """Its summary.json."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def rows(self) -> Rows:
        """Its metrics.csv."""
        with (self.folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def serve_bucket() -> Any:
    """moto's S3 server with the corpus in a bucket; the environment says how to reach it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    files = s3fs.S3FileSystem()
    files.mkdir(BUCKET)
    files.pipe_file(f"{BUCKET}/{SAMPLE.name}", SAMPLE.read_bytes())
    return server


def start(cache: Path) -> ServerProcess:
    """A streamer of the bucket, as a fork: there before the next one dies. Its log is a file."""
    with cache.with_suffix(".log").open("wb") as log:
        return ServerProcess(SOURCE, cache, start=partial(fork, stderr=log))


def undisturbed(folder: Path, num_tokens: int) -> Training:
    """A run with a streamer of its own."""
    server = start(folder / "cache-alone")
    training = Training(folder / "undisturbed", server.url, num_tokens)
    try:
        training.process.wait(RUN_SECONDS)
    finally:
        training.close()
        server.kill()
    return training


def disturbed(report: Report, folder: Path, num_tokens: int) -> Training:
    """A run whose replicas die, one after the other.

    Not always the one that serves it: with an empty cache it may take 5 s to the first batch.
    """
    kills: list[float] = []
    adding: list[Future[None]] = []
    replicas = Replicas(folder, start, NUM_REPLICAS)
    training = Training(folder / "disturbed", replicas.url, num_tokens)
    ends = time.monotonic() + RUN_SECONDS
    try:
        # A start may take longer than there is between kills.
        with ThreadPoolExecutor(1) as starter:
            while training.process.poll() is None and time.monotonic() < ends:
                time.sleep(0.05)
                is_due = not kills or time.monotonic() >= kills[-1] + KILL_SECONDS
                if training.has_begun and is_due and len(replicas.servers) > 1:
                    kills.append(time.monotonic())
                    replicas.kill(replicas.servers[0])
                    adding.append(starter.submit(replicas.add))
                    report.say(f"kill {len(kills)}, {len(replicas.servers)} left")
        for future in adding:
            future.result()
    finally:
        training.close()
        replicas.close()
    report.equal("enough_kills", len(kills) >= FEWEST_KILLS, True, f"{len(kills)} kills")
    seconds = (kills[-1] - kills[0]) / max(1, len(kills) - 1)
    report.note("mean_seconds_between_kills", round(seconds, 1))
    return training


def same(rows: Rows) -> Rows:
    """What may not differ: everything but times and what belongs to them."""
    return [
        {name: value for name, value in row.items() if not name.startswith(("perf/", "seconds"))}
        for row in rows
    ]


def longest_step(rows: Rows, share: str | None = None) -> float:
    """Most seconds between two rows, or of the share of them that a column says."""
    return max(
        (float(b["seconds"]) - float(a["seconds"])) * (float(b[share] or 0) if share else 1.0)
        for a, b in pairwise(rows)
    )


def compare(report: Report, one: Training, other: Training) -> None:
    """An undisturbed run and the other."""
    for name in ("status", "steps", "tokens", "final_train_loss", "final_val_loss"):
        report.equal(name, other.summary.get(name), one.summary[name])
    columns = ", ".join(same(one.rows)[0])
    report.equal("rows_identical", same(other.rows) == same(one.rows), True, columns)
    reconnects = max(float(row["perf/stream_reconnects"] or 0) for row in other.rows)
    report.note("reconnects", int(reconnects))
    for name, training in (("undisturbed", one), ("disturbed", other)):
        rows = training.rows
        report.note(f"{name}_seconds", training.summary["seconds"], f"{len(rows)} rows")
        report.note(f"{name}_longest_step_seconds", round(longest_step(rows), 2))
        longest = longest_step(rows, "perf/data_wait_frac")
        report.note(f"{name}_longest_wait_for_data_seconds", round(longest, 2))


def main() -> int:
    """Trains twice and compares; 0 when everything held."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--tokens",
        type=int,
        default=200_000,
        help="to train on; take enough for two minutes (default: %(default)s)",
    )
    options = parser.parse_args()
    if NGINX is None:
        parser.error("nginx is needed")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # what is started ends with us
    report = Report()
    report.phase = "replicas"
    store = serve_bucket()
    try:
        with tempfile.TemporaryDirectory(prefix="replicas-") as place:
            one = undisturbed(Path(place), options.tokens)
            report.say("the undisturbed run has ended")
            compare(report, one, disturbed(report, Path(place), options.tokens))
    finally:
        STREAMERS.close()
        store.stop()
    print(json.dumps(report.payload(), indent=2))
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())
