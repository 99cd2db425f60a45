"""The command line of generation: text as it comes, or one JSON object a sample.

What is slow to import is imported where it is needed: help and mistyped options come at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import ConfigError, one_line
from babygpt_exp.generation.start import Precision, add_model_options, start_engine
from babygpt_exp.sampling import LARGEST_SEED, Settings
from streamer.cli import Parser

if TYPE_CHECKING:
    from babygpt_exp.generation.engine import Written
    from babygpt_exp.generation.request import Request
    from babygpt_exp.generation.texts import Generated
    from babygpt_exp.trained import Trained

MOST_SLOTS = 32
"""Samples at a time; more wait."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    run: Path
    """A run's folder, or a checkpoint file."""
    checkpoint: str
    """Which of the folder's checkpoints: last, best, or a file."""
    prompt: str
    """Text to go on from; empty starts a new one."""
    changes: dict[str, Any]
    """Settings that were given; the others are those of the run's samples."""
    max_new_tokens: int | None
    """Most tokens a sample; None is that of the run's samples."""
    num_samples: int
    """Samples, with seeds in a row."""
    stop: tuple[str, ...]
    """Strings that end a sample."""
    precision: Precision | None
    """Arithmetic; None is bf16 where the machine has it."""
    cached: bool
    """Keep keys and values."""
    compiled: bool
    """Compile the steps."""
    as_json: bool
    """Print JSON."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-generate` and of `python -m babygpt_exp.generate`."""
    wanted = read_arguments(argv)
    with errors_in_a_line():
        write(wanted)


def read_arguments(argv: Sequence[str] | None) -> Wanted:
    """What is asked for; ends the process with 2 where it can not be."""
    parser = build_parser()
    given = parser.parse_args(argv)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    changes = {name: value for name in names if (value := getattr(given, name)) is not None}
    try:
        Settings(**changes)
        prompt = given.prompt if given.prompt_file is None else read_prompt(given.prompt_file)
        for text in (prompt, *given.stop):
            text.encode()
    except UnicodeEncodeError:
        parser.error("--prompt and --stop must be UTF-8 text")
    except (ValueError, ConfigError) as error:
        parser.error(one_line(error))
    for name in ("max_new_tokens", "num_samples"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if changes["seed"] + given.num_samples - 1 > LARGEST_SEED:
        parser.error("--seed and --num-samples go beyond the largest seed, 2^64 - 1")
    if not all(given.stop):
        parser.error("--stop must not be empty")
    if given.compile and given.no_cache:
        parser.error("--compile and --no-cache do not go together")
    return Wanted(
        run=given.run,
        checkpoint=given.checkpoint,
        prompt=prompt,
        changes=changes,
        max_new_tokens=given.max_new_tokens,
        num_samples=given.num_samples,
        stop=tuple(given.stop),
        precision=given.precision,
        cached=not given.no_cache,
        compiled=given.compile,
        as_json=given.json,
    )


def read_prompt(path: Path) -> str:
    """The content of a file, as it is."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"--prompt-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompt-file {path} is no UTF-8 text") from error


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.generate`."""
    parser = Parser(
        prog="python -m babygpt_exp.generate",
        description="Write text with a trained model. Prints what it adds to the prompt, one\n"
        "sample as its tokens come, several one after the other.",
        epilog="What is not given is as in the run's own samples, but for the seed. A text longer\n"
        "than the model's context goes on from its last half.\n"
        "The same seed and settings give the same text on the same machine.",
        examples=(
            'python -m babygpt_exp.generate outputs/DATE/TIME --prompt "This movie"',
            "python -m babygpt_exp.generate outputs/DATE/TIME --num-samples 4 --top-k 20 --json",
        ),
        allow_abbrev=False,
    )
    add_model_options(parser)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", default="", metavar="TEXT", help="text to go on from (default: a new text)"
    )
    prompts.add_argument("--prompt-file", type=Path, metavar="FILE", help="the same, from a file")
    add = parser.add_argument
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens to add (default: as the run's samples)",
    )
    add_settings(add)
    add("--num-samples", type=int, default=1, metavar="N", help="samples (default: 1)")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="STRING",
        help="ends a sample before it; may be repeated",
    )
    add("--no-cache", action="store_true", help="compute the whole text for every token: slow")
    add(
        "--json",
        action="store_true",
        help="print one JSON object a sample: text, tokens, tokens_per_s, finish_reason",
    )
    return parser


def add_settings(add: Callable[..., Any]) -> None:
    """The options for how tokens are drawn."""
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="0 takes the likeliest token always (default: as the run's samples)",
    )
    add(
        "--top-k",
        type=int,
        metavar="K",
        help="draw from the likeliest K tokens; 0 from all (default: as the run's samples)",
    )
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the fewest tokens with this chance together (default: as the run's "
        "samples)",
    )
    add(
        "--min-p",
        type=float,
        metavar="M",
        help="draw from tokens with this part of the likeliest one's chance (default: as the run's "
        "samples)",
    )
    add(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="above 1 makes tokens less likely that are there already (default: as the run's "
        "samples)",
    )
    add(
        "--seed",
        type=int,
        default=1,
        metavar="S",
        help="seed of the first sample; each further one has the next (default: 1)",
    )


def write(wanted: Wanted) -> None:
    """Load the model, write the samples and print them."""
    with importing_torch():
        from babygpt_exp.generation.texts import generate
        from babygpt_exp.trained import load_trained

    trained = load_trained(wanted.run, wanted.checkpoint)
    engine = start_engine(
        trained,
        min(wanted.num_samples, MOST_SLOTS),
        precision=wanted.precision,
        cached=wanted.cached,
        compiled=wanted.compiled,
    )
    requests = make_requests(wanted, trained)
    if sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    if wanted.as_json:
        for generated in generate(engine, requests):
            print(json.dumps(row(generated)))
    elif len(requests) == 1:
        generate(engine, requests, show)
        print()
    else:
        for number, generated in enumerate(generate(engine, requests), start=1):
            print(f"--- sample {number} of {len(requests)}, {generated.finish_reason}")
            print(generated.text)


def make_requests(wanted: Wanted, trained: Trained) -> list[Request]:
    """One request a sample."""
    from babygpt_exp.generation.request import Request

    sampling = trained.config.sampling
    settings = replace(sampling.settings(seed=0), **wanted.changes)
    return [
        Request(
            prompt=trained.prompt_tokens(wanted.prompt),
            max_new_tokens=wanted.max_new_tokens or sampling.max_new_tokens,
            settings=replace(settings, seed=settings.seed + number),
            stop=wanted.stop,
        )
        for number in range(wanted.num_samples)
    ]


def show(_: int, written: Written) -> None:
    """Print what a token adds."""
    print(written.text, end="", flush=True)


def row(generated: Generated) -> dict[str, Any]:
    """A sample as JSON has it."""
    return {
        "text": generated.text,
        "tokens": generated.tokens,
        "tokens_per_s": round(generated.tokens_per_s, 1),
        "finish_reason": generated.finish_reason,
    }
