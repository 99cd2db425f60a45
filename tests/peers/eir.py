"""Ours against EIR's own package, one after the other, on the same text: `make against-eir`.

Usage: .venv/bin/python tests/peers/eir.py PYTHON [--minutes 10] [--source FILE_OR_FOLDER]
PYTHON has eir-dl (`make against-eir` makes one). Run it on a machine that does nothing else.

EIR trains by `eirtrain` on the configuration of its tutorial (Scaling compute), but for a CPU:
batch 8, no compile; its tokenizer comes from its setup samples, as without a vocabulary file. Its
minutes begin after its first step and hold no evaluation. Ours is model=baby as it is; its minutes
hold the compiling. Both train on the same documents: EIR in shuffled order, through our server.
Both are scored on pieces of 512 words of other documents, each cut to the tokens that EIR takes;
neither sees what is before a piece, nor more than 512 tokens.

Prints one JSON object; exits 1 where ours does not train on RATIO times the text a second.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY), str(HERE)]

from scoring import load_model, score, scores  # noqa: E402

from babygpt_exp.data.config import SAMPLE  # noqa: E402
from babygpt_exp.hardware import COMPILE_PAYS_SECONDS  # noqa: E402
from streamer.eir.corpus import cut  # noqa: E402
from streamer.embedded import EmbeddedStreamer  # noqa: E402
from streamer.split import is_validation  # noqa: E402

RATIO = 2.5
"""Least text a second, as a multiple of EIR's."""
CLASSICS = REPOSITORY.parent / "shared" / "data" / "classics"
"""Used where it lies beside the checkout; else the corpus that ships."""
NUM_PIECES = 128
"""Pieces that both are scored on, about 300 kB."""
PIECE_WORDS = 512
NUM_EPOCHS = 100
"""As in tutorial/global.yaml; `eirtrain` itself makes a single epoch of a stream."""
SETUP_SECONDS = 1800
"""Most that a contender may take beside its training."""
TRIAL_TOKENS = 65_536
"""Size of the run that tells how many tokens fit into the minutes."""
FRACTION, SALT = 0.05, "babygpt"
"""What is held out where there is no text to validate on, by conf/data."""


def read_documents(source: Path) -> list[str]:
    """The text of a parquet file, or of all in a folder."""
    files = sorted(source.glob("**/*.parquet")) if source.is_dir() else [source]
    texts: list[str] = []
    for file in files:
        texts += pq.read_table(file, columns=["text"])["text"].to_pylist()
    return texts


def hold_out(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Documents to train on and others, as our run divides them."""
    held = [is_validation(text.encode(), FRACTION, SALT) for text in documents]
    parts = list(zip(documents, held, strict=True))
    return [text for text, out in parts if not out], [text for text, out in parts if out]


def prepare(source: Path, validation: Path | None) -> tuple[list[str], list[str]]:
    """Documents to train on, shuffled, and pieces of others to score."""
    if validation is None:
        documents, others = hold_out(read_documents(source))
    else:
        documents, others = read_documents(source), read_documents(validation)
    pieces = [piece for text in others for piece in cut(text, PIECE_WORDS)]
    draw = random.Random(1)
    draw.shuffle(documents)
    return documents, draw.sample(pieces, min(NUM_PIECES, len(pieces)))


def run(command: list[str], folder: Path, log: Path, seconds: float, **environment: str) -> None:
    """Runs a process to its end; at a failure or its deadline this script ends with its words."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            exit_code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            process.kill()
            process.wait()
    if exit_code != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        sys.exit(f"{command[0]} ended with {exit_code} (None: too late):\n{last}")


def train_eir(python: Path, documents: list[str], pieces: list[str], seconds: float) -> Any:
    """EIR's run; what timed_eirtrain.py found."""
    with tempfile.TemporaryDirectory(prefix="against-eir-") as name:
        folder = Path(name)
        corpus = folder / "train.parquet"
        pq.write_table(pa.table({"text": documents}), corpus, row_group_size=64)
        plan = {"seconds": seconds, "texts": pieces, "result": str(folder / "result.json")}
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        command = [str(python), "-P", str(HERE / "timed_eirtrain.py"), str(folder / "plan.json")]
        with EmbeddedStreamer([str(corpus)], cache_dir=folder / "cache") as server:
            url = f"{server.url}?words={PIECE_WORDS}&epochs={NUM_EPOCHS}"
            for kind in ("global", "fusion", "output"):
                text = (HERE / "tutorial" / f"{kind}.yaml").read_text()
                file = folder / f"{kind}.yaml"
                file.write_text(text.replace("FOLDER", str(folder)).replace("URL", url))
                command += [f"--{kind}_configs", str(file)]
            run(command, folder, folder / "log", seconds + SETUP_SECONDS)
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def our_overrides(source: Path, validation: Path | None) -> list[str]:
    """What a user would type."""
    held_out = [f"data.validation_fraction={FRACTION}", f"data.validation_salt={SALT}"]
    if validation is not None:
        held_out = [f"data.validation_source={validation}"]
    data = ["data=local", f"data.source={source}", *held_out]
    return ["model=baby", "precision=bf16-mixed", "hardware=cpu", "logger=none", *data]


def train_ours(folder: Path, seconds: float, *overrides: str) -> Path:
    """One of our runs; its folder."""
    no_samples = "run.sample_every_tokens=1_000_000_000_000"
    command = [sys.executable, "-m", "babygpt_exp", *overrides, no_samples]
    command.append(f"hydra.run.dir={folder}")
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    run(command, folder.parent, folder.with_suffix(".log"), seconds, PYTHONPATH=path)
    return folder


def intervals(folder: Path) -> list[tuple[int, float]]:
    """Tokens and seconds of training between the logged rows of a run."""
    found, last = [], 0
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["perf/tokens_per_s"]:
                tokens = int(row["tokens"]) - last
                found.append((tokens, tokens / float(row["perf/tokens_per_s"])))
                last += tokens
    return found


def budget(trial: Sequence[tuple[int, float]], seconds: float, batch_tokens: int) -> int:
    """Tokens that take so many seconds, the first step of a trial run among them."""
    (first_tokens, first_seconds), *rest = trial
    rate = sum(tokens for tokens, _ in rest) / sum(taken for _, taken in rest)
    steps = (first_tokens + rate * (seconds - first_seconds)) // batch_tokens
    return batch_tokens * max(2, int(steps))


def measure_eir(found: dict[str, Any]) -> dict[str, Any]:
    """EIR's side of the comparison."""
    texts = found["scored_texts"]
    return {
        "tokens_per_s": found["tokens"] / found["seconds"],
        "text_bytes_per_s": found["text_bytes"] / found["seconds"],
        "training_seconds": found["seconds"],
        "steps": found["steps"],
        "tokens": found["tokens"],
        "text_bytes": found["text_bytes"],
        "parameters": found["parameters"],
        "vocab_size": found["vocab_size"],
    } | scores(found["validation_nats"], found["validation_tokens"], texts)


def measure_ours(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Our side, on the same texts; the bytes trained on by the bytes a token of these."""
    model, tokenizer = load_model(folder / "checkpoints" / "last.ckpt")
    scored = scores(*score(model, tokenizer, texts), texts)
    (_, first_seconds), *rest = intervals(folder)
    rate = sum(tokens for tokens, _ in rest) / sum(taken for _, taken in rest)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {
        "tokens_per_s": rate,
        "text_bytes_per_s": rate * scored["bytes_per_token"],
        "training_seconds": first_seconds + sum(taken for _, taken in rest),
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "text_bytes": round(summary["tokens"] * scored["bytes_per_token"]),
        "parameters": summary["parameters"],
        "vocab_size": tokenizer.vocab_size,
        **scored,
        "own_validation_bits_per_byte": summary["final_val_bpb"],
    }


def compare(ours: dict[str, Any], eir: dict[str, Any]) -> dict[str, Any]:
    """Both, and how many times EIR's ours is."""
    names = ("text_bytes_per_s", "text_bytes", "tokens_per_s", "bits_per_byte")
    ratios = {f"ratio_{name}": ours[name] / eir[name] for name in names}
    holds = ratios["ratio_text_bytes_per_s"] >= RATIO
    return {"ours": ours, "eir": eir, **ratios, "bound": RATIO, "holds": holds}


def main() -> int:
    """Runs both; 0 where the bound holds."""
    source, validation = SAMPLE, None
    if CLASSICS.is_dir():
        source, validation = CLASSICS / "train", CLASSICS / "validation"
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("python", type=Path, help="a Python that has eir-dl")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training each (10)")
    parser.add_argument("--source", type=Path, help=f"parquet, a file or a folder ({source})")
    parser.add_argument("--validation", type=Path, help="the same; else a part is held out")
    parser.add_argument("--set", nargs="*", default=[], help="more overrides of our run")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    if options.source is not None:
        source = options.source.resolve()
        validation = options.validation and options.validation.resolve()
    seconds = 60 * options.minutes
    documents, pieces = prepare(source, validation)
    python = Path(os.path.abspath(options.python))  # a link into an environment stays one
    print(f"EIR trains for {seconds:g} s after its set-up ...", file=sys.stderr)
    found = train_eir(python, documents, pieces, seconds)
    compiled = f"hardware.compile={str(seconds >= COMPILE_PAYS_SECONDS).lower()}"
    overrides = [*our_overrides(source, validation), compiled, *options.set]
    with tempfile.TemporaryDirectory(prefix="against-eir-") as name:
        print("ours shows its speed ...", file=sys.stderr)
        few = f"run.max_tokens={TRIAL_TOKENS}"
        trial = train_ours(Path(name, "trial"), SETUP_SECONDS, *overrides, few)
        batch_tokens = OmegaConf.load(trial / "config.yaml").run.batch_tokens
        overrides.append(f"run.max_tokens={budget(intervals(trial), seconds, batch_tokens)}")
        print(f"ours trains: {' '.join(overrides)}", file=sys.stderr)
        folder = train_ours(Path(name, "run"), 2 * seconds + SETUP_SECONDS, *overrides)
        ours = measure_ours(folder, found["scored_texts"])
    result = compare(ours, measure_eir(found))
    facts = {"minutes": options.minutes, "pieces": len(pieces), "overrides": overrides}
    print(json.dumps(facts | result, indent=2))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
