"""Has the real `eirtrain` train from our server, and accounts for every word of the corpus.

Usage: .venv/bin/python tests/interop/run.py BIN, where BIN is the bin folder of an environment
with eir-dl (`make interop` makes one). Prints what was found, and exits 1 where it is not right.

`eirtrain` makes a single epoch of a stream, whatever `n_epochs` says. So it runs twice: as it is,
with a server that goes through the corpus twice, and with `n_epochs` made to count, so that its
workers connect anew for the second epoch.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "streamer")]

from records import Record, read_record  # noqa: E402
from streamer_harness import ServerProcess  # noqa: E402

NUM_EPOCHS, NUM_WORKERS, BATCH_SIZE, NUM_VALID = 2, 2, 16, 48
"""As in globals.yaml, and `epochs` of the URL."""
TRAINING_SECONDS = 600


def make_documents() -> list[str]:
    """Prose that ships with the package, and text that is easily damaged; some of it twice."""
    source = random.Random(3)
    corpus = REPOSITORY / "babygpt_exp" / "corpus" / "sample.parquet"
    prose = pq.read_table(corpus, columns=["text"])["text"].to_pylist()[:60]
    words = ["def", "return", "river", "Steven", "caf\u00e9", "\u6c34", "x = 1;", "<|endoftext|>"]
    breaks = [" ", "\n", "\n    ", "\t", "\r\n", "  ", "\n\n\n"]
    made = []
    for number in range(600):
        pairs = [source.choice(breaks) + source.choice(words) for _ in range(source.randint(1, 60))]
        made.append(f"{number}:" + "".join(pairs))
    odd = ["", " ", "\n\t\n", "  leading", "trailing \n\n", "word", "a\u00a0b", "\ufeffmark"]
    documents = prose + made + odd + source.sample(made, 200)
    source.shuffle(documents)
    return documents


def train(bin_folder: Path, folder: Path, url: str, environment: dict[str, str]) -> list[Record]:
    """Runs `eirtrain` to its end; what its processes wrote down."""
    records = folder / "records"
    records.mkdir(parents=True)
    arguments = []
    for option, name in (("global", "globals"), ("fusion", "fusion"), ("output", "output")):
        text = (HERE / f"{name}.yaml").read_text()
        file = folder / f"{name}.yaml"
        file.write_text(text.replace("FOLDER", str(folder)).replace("URL", url))
        arguments += [f"--{option}_configs", str(file)]
    script = [str(HERE / "recorded_eirtrain.py"), str(bin_folder / "eirtrain")]
    began = time.monotonic()
    with (folder / "eirtrain.log").open("w") as log:
        done = subprocess.run(
            [str(bin_folder / "python"), *script, *arguments],
            cwd=folder,
            env=os.environ | environment | {"INTEROP_RECORDS": str(records)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=TRAINING_SECONDS,
        )
    if done.returncode != 0:
        print("\n".join((folder / "eirtrain.log").read_text().splitlines()[-40:]))
    check("exit code of eirtrain", done.returncode, 0)
    tell("seconds", round(time.monotonic() - began))
    return [read_record(path) for path in sorted(records.iterdir())]


def tell(what: str, found: object) -> None:
    """Prints a figure."""
    print(f"  {what}: {found}", flush=True)


def check(what: str, found: object, expected: object) -> None:
    """Prints a figure; a wrong one ends the script."""
    if found != expected:
        sys.exit(f"{what}: {found}, not {expected}")
    tell(what, found)


def check_messages(records: list[Record]) -> None:
    """Every reply belongs to a request, and was read.

    From its second epoch on `eirtrain` knows how many batches there are. It ends without asking
    its workers, whose last request is still waiting to be told of the end.
    """
    counts = [count for record in records for count in record.num_messages.values()]
    unread = [count["sent getData"] - count["received data"] for count in counts]
    tell("requests for data", sum(count["sent getData"] for count in counts))
    tell("of which without a reply that was read", sum(unread))
    check("of which others than the last of a connection", sum(n for n in unread if n > 1), 0)
    heartbeats = [count["received heartbeat"] for count in counts if count["sent heartbeat"]]
    check("heartbeats read on a connection", set(heartbeats), {1})


def check_training(records: list[Record], num_resets: int) -> dict[str, str]:
    """Each sample once an epoch, none of them held out; returns all texts by id."""
    (main,) = (record for record in records if record.validation_ids)
    workers = [record for record in records if record.epochs]
    texts = {name: text for record in records for name, text in record.texts.items()}
    valid = set(main.validation_ids)
    valid_texts = {texts[name] for name in valid}
    check("validation ids", len(valid), NUM_VALID)
    check("workers", len(workers), NUM_WORKERS)
    check("times that each connected", {len(record.epochs) for record in workers}, {num_resets})
    trained = {name for record in workers for epoch in record.epochs for name in epoch}
    for number in range(num_resets):
        given = Counter(name for record in workers for name in record.epochs[number])
        tell("samples of each worker", [len(record.epochs[number]) for record in workers])
        check("samples missing", len(trained - given.keys()), 0)
        check("times that each was given", set(given.values()), {NUM_EPOCHS // num_resets})
    twice = {texts[name] for name in trained} & valid_texts
    check("trained texts that are validation texts", twice, set())
    validated = {n for r in records if not r.epochs for batch in r.batches for n in batch}
    check("samples validated on", len(validated), NUM_VALID)
    check("of which others than the validation ids", validated - valid, set())
    num_given = NUM_EPOCHS * len(trained)
    num_used = sum(len(batch) for record in workers for batch in record.batches)
    left = num_resets * (num_given // num_resets % BATCH_SIZE)
    check("samples given that eirtrain's loader drops (drop_last)", num_given - num_used, left)
    return {name: texts[name] for name in trained | valid}


def check_complete(documents: list[str], texts: dict[str, str]) -> None:
    """Puts the pieces together again: every document is there, or was held out as a twin."""
    pieces: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    for name, text in texts.items():
        _, shard, document, piece = name.split("-")
        pieces[int(shard), int(document)][int(piece)] = text
    delivered = ["".join(found[n] for n in sorted(found)) for found in pieces.values()]
    worded = [text for text in documents if text.strip()]
    missing = Counter(worded) - Counter(delivered)
    twins = [text for text in missing.elements() if text in set(texts.values())]
    tell("documents", len(documents))
    tell("of which with a word in them", len(worded))
    tell("delivered", len(delivered))
    tell("held out as twins of a validation text", len(twins))
    check("lost", missing.total() - len(twins), 0)
    check("that are none of the corpus", (Counter(delivered) - Counter(worded)).total(), 0)
    found = [*delivered, *twins]
    num_words = sum(len(text.split()) for text in documents)
    check("words", sum(len(text.split()) for text in found), num_words)
    num_bytes = sum(len(text.encode()) for text in worded)
    check("bytes", sum(len(text.encode()) for text in found), num_bytes)


def main() -> None:
    bin_folder = Path(sys.argv[1]).resolve()
    documents = make_documents()
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        table = pa.table({"text": documents})
        pq.write_table(table, folder / "corpus.parquet", row_group_size=150)
        server = ServerProcess(folder / "corpus.parquet", folder / "cache")
        try:
            print("eirtrain as it is, two epochs of the server")
            url = f"{server.url}?session=as-it-is&epochs={NUM_EPOCHS}"
            records = train(bin_folder, folder / "as-it-is", url, {})
            check_messages(records)
            check_complete(documents, check_training(records, 1))
            print("eirtrain with n_epochs=2")
            url = f"{server.url}?session=epochs"
            records = train(bin_folder, folder / "epochs", url, {"INTEROP_KEEP_EPOCHS": "1"})
            check_messages(records)
            check_complete(documents, check_training(records, NUM_EPOCHS))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
