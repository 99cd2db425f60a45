"""How well fine-tuning works: `python tests/finetuned.py RUN [--source FILE] [--folder F] [a=b]`.

Fine-tunes a run on instructions, then lets it answer instructions that were held out, as samples
are drawn by default and greedily, and prints one JSON object: the shares of answers that end by
themselves, the loss of the held-out responses before and after, and a few answers. Exit status 0
says that the loss and the first share are as they should be: greedily a small model comes to
repeat itself for ever.
A folder with a run that is complete is looked at as it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from experiment_harness import REPOSITORY, command, read_summary

from babygpt_exp.data.config import InstructionsConfig
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.sampling import Settings
from babygpt_exp.trained import Trained, load_trained
from streamer.split import is_validation

SOURCE = REPOSITORY.parent / "shared" / "data" / "instructions.parquet"
NUM_SLOTS = 20
DRAWN = Settings(temperature=0.8, top_k=50, seed=1)
"""As conf/config.yaml has it for samples."""
NUM_SHOWN = 8
LEAST_SHARE, LEAST_GAIN = 0.95, 0.25
"""Of answers that end by themselves, and of the response loss."""


def main() -> None:
    """Train, ask, report."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("run", type=Path)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--folder", type=Path, default=Path("finetuned"))
    parser.add_argument("--num-instructions", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options, overrides = parser.parse_known_args()
    if not (options.folder / "checkpoints" / "last.ckpt").exists():
        typed = ["experiment=finetune", f"init_from={options.run}", f"data.source={options.source}"]
        typed += ["logger=none", f"hydra.run.dir={options.folder}", *overrides]
        subprocess.run(command(*typed), check=True, stdout=sys.stderr)
    summary = read_summary(options.folder)
    trained = load_trained(options.folder)
    asked = held_out(trained, options.num_instructions)
    shares = {}
    for name, settings in (("greedily", Settings(temperature=0)), ("as drawn", DRAWN)):
        answers = generate(
            Engine(trained.model, trained.tokenizer, NUM_SLOTS),
            [Request(prompt, options.max_new_tokens, settings) for prompt, _ in asked],
        )
        ended = sum(answer.finish_reason == "stop" for answer in answers)
        shares[name] = ended / len(answers)
    share = shares["as drawn"]
    before, after = summary["initial_val_loss"], summary["final_val_loss"]
    gain = 1 - after / before
    shown = zip(asked[:NUM_SHOWN], answers, strict=False)
    report: dict[str, Any] = {
        "num_instructions": len(answers),
        "share_that_ends": shares,
        "response_loss_before": before,
        "response_loss_after": after,
        "gain": gain,
        "seconds": summary["seconds"],
        "answers": [
            {"instruction": row["instruction"], "answer": answer.text, "reference": row["output"]}
            for (_, row), answer in shown
        ],
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    sys.exit(0 if share >= LEAST_SHARE and gain >= LEAST_GAIN else 1)


def held_out(trained: Trained, count: int) -> list[tuple[tuple[int, ...], dict[str, str]]]:
    """The first instructions of the validation split, each as a prompt's tokens and its row."""
    data, template = trained.config.data, trained.template
    assert isinstance(data, InstructionsConfig)
    assert template is not None
    stop, encode = trained.tokenizer.end_of_text, trained.tokenizer.encode
    found = []
    for row in pq.read_table(data.source).to_pylist():
        prompt, response = template.fill(row), row[data.column]
        sample = f"{prompt}{response}".encode()
        if is_validation(sample, data.validation_fraction, data.validation_salt):
            found.append(((stop, *encode(prompt), stop), row))
    return found[:count]


if __name__ == "__main__":
    main()
