"""The command line of evaluation: one JSON line of what a text or tasks say of a model.

What is slow to import is imported where it is needed: help and mistyped options come at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import ConfigError, UserError
from streamer.cli import Parser

if TYPE_CHECKING:
    from babygpt_exp.trained import Trained

DESCRIPTION = """\
Compute the bits a byte that a trained model needs for a text, and print them as one JSON line:
bits_per_byte, loss (nats a token), tokens, bytes.

Every byte is scored exactly once, whatever the tokenizer. Documents are scored one by one: a
line of a .jsonl file, a row of a .parquet file, a whole .txt file. Each starts from an end of
text and sees nothing of the others; the end of text itself is not scored, and what spells a
special token in a text is plain text. Without --stride the windows of a document follow one
upon the other, each as long as the model's context; the last reaches back as far. These are the
windows of lm-eval's perplexities, and the numbers that transformers gives of the exported model.
(A run's own final_val_bpb is of documents that follow one another in blocks, with their ends.)

With --tasks, print what lm-eval measures with the model: one JSON line too.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-evaluate` and of `python -m babygpt_exp.evaluate`."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    check(parser, arguments)
    with errors_in_a_line():
        print(json.dumps(figures(arguments)))


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.evaluate`."""
    parser = Parser(
        prog="python -m babygpt_exp.evaluate",
        description=DESCRIPTION,
        examples=(
            "python -m babygpt_exp.evaluate outputs/DATE/TIME --text my_texts/",
            "python -m babygpt_exp.evaluate outputs/DATE/TIME --text a.txt --checkpoint best",
            "python -m babygpt_exp.evaluate outputs/DATE/TIME --tasks lambada_openai",
        ),
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder or a checkpoint file")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        help="files, folders or globs of .txt, .jsonl, .parquet, also .gz and .zst of the first "
        "two; local or by URL",
    )
    what.add_argument("--tasks", nargs="+", metavar="NAME", help="tasks of lm-eval (an extra)")
    parser.add_argument(
        "--task-folder", metavar="DIR", help="folder of your own tasks for lm-eval, in YAML"
    )
    parser.add_argument(
        "--column", default="text", help="column or field that holds the text (default: text)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="let windows overlap: after a document's first, each scores its last N tokens only, "
        "so that these see more context (default: the model's context, no overlap)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=16,
        metavar="N",
        help="windows at a time; decides nothing but time and memory (default: 16)",
    )
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="last|best|FILE",
        help="which checkpoint of the run (default: last)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="arithmetic; bf16 is faster on a GPU, and less exact (default: fp32)",
    )
    return parser


def check(parser: Parser, arguments: argparse.Namespace) -> None:
    """Ends the process with 2 for what can not be meant, or would have no effect."""
    if arguments.batch < 1:
        parser.error("--batch must be at least 1")
    if arguments.tasks is None:
        kind, others = "--text", ["task_folder"]
    else:
        kind, others = "--tasks", ["column", "stride", "precision"]
    for name in others:
        if getattr(arguments, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} has no effect with {kind}; leave it out")


def figures(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is printed."""
    with importing_torch():
        import torch

        from babygpt_exp.hardware import keep_freed_memory
        from babygpt_exp.trained import load_trained

    keep_freed_memory()
    trained = load_trained(arguments.run, arguments.checkpoint)
    trained.model.to("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.text is not None:
        return text_figures(trained, arguments)
    from babygpt_exp.evaluation.harness import results_of

    with redirect_stdout(sys.stderr):
        return results_of(trained, arguments.tasks, arguments.task_folder, arguments.batch)


def text_figures(trained: Trained, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a text says of a model."""
    from babygpt_exp.evaluation.likelihood import evaluate
    from babygpt_exp.evaluation.text import read_texts

    context = trained.config.model.context
    stride = context if arguments.stride is None else arguments.stride
    if not 1 <= stride <= context:
        raise ConfigError(f"--stride {stride} must be between 1 and the model's context, {context}")
    found = evaluate(
        trained.model,
        trained.tokenizer,
        read_texts(arguments.text, arguments.column),
        batch=arguments.batch,
        stride=stride,
        precision=arguments.precision,
    )
    if not found.num_targets:
        raise UserError(f"there is no text in {' '.join(arguments.text)}")
    return {
        "bits_per_byte": found.bits_per_byte,
        "loss": found.loss,
        "tokens": found.num_targets,
        "bytes": found.text_bytes,
    }
