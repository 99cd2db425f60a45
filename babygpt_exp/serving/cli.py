"""The command line of the server.

What is slow to import is imported where it is needed: help and mistyped options come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import UserError, one_line
from babygpt_exp.generation.start import add_model_options, start_engine
from streamer.cli import Parser, check_access
from streamer.logs import Logging, event

if TYPE_CHECKING:
    from babygpt_exp.generation.engine import Engine

log = logging.getLogger(__name__)

MOST_SLOTS = 1024
"""Texts at a time; each step costs what this many cost."""

DESCRIPTION = """\
Serve a trained model: OpenAI-style completions at /v1/completions, also as a stream, and a page
at / to try it. Prints where once it is ready, and serves until Ctrl-C or SIGTERM.

Requests are written beside each other, a token each in every step. What comes for a request does
not depend on what else is being written: the same prompt, settings and seed give the same text,
as long as --slots, --precision and the machine are the same.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-serve` and of `python -m babygpt_exp.serve`."""
    parser = build_parser()
    options = parser.parse_args(argv)
    check(parser, options)
    with errors_in_a_line():
        run(options)


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.serve`."""
    parser = Parser(
        prog="python -m babygpt_exp.serve",
        description=DESCRIPTION,
        examples=(
            "python -m babygpt_exp.serve outputs/DATE/TIME",
            "python -m babygpt_exp.serve outputs/DATE/TIME --checkpoint best --port 8000 --compile",
        ),
        allow_abbrev=False,
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    add("--port", type=int, default=8080, help="port; 0 lets the system choose (default: 8080)")
    add("--name", help="what clients call the model (default: the run's folder)")
    add(
        "--slots",
        type=int,
        default=16,
        metavar="N",
        help="texts that are written at a time; more wait (default: 16)",
    )
    add_limits(parser)
    add(
        "--token-file",
        type=Path,
        metavar="F",
        help="let in only who sends one of its tokens, one a line of at least 16 characters, as "
        "Authorization: Bearer TOKEN or ?token=TOKEN; read again on SIGHUP",
    )
    add(
        "--insecure",
        action="store_true",
        help="allow an address that others can reach, although nobody has to identify themselves",
    )
    parser.set_defaults(tls_cert=None, tls_key=None)  # a proxy in front does that
    return parser


def add_limits(parser: Parser) -> None:
    """The options for what is too much."""
    parser.add_argument(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="longest prompt (default: the model's context); above it the beginning is not seen",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=4096,
        metavar="N",
        help="largest max_tokens that may be asked for (default: 4096)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=256,
        metavar="N",
        help="texts that may wait for a slot; more are refused (default: 256)",
    )


def check(parser: Parser, options: argparse.Namespace) -> None:
    """Ends the process with 2 for what can not be meant."""
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port} is not from 0 to 65535")
    if not 1 <= options.slots <= MOST_SLOTS:
        parser.error(f"--slots {options.slots} is not from 1 to {MOST_SLOTS}")
    for name, least in (("max_prompt_tokens", 1), ("max_tokens", 1), ("queue", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if options.name is not None and not (options.name.isprintable() and options.name):
        parser.error("--name must be printable text")
    check_access(parser, options)


def run(options: argparse.Namespace) -> None:
    """Load the model and serve it."""
    with importing_torch():
        from babygpt_exp.serving.completions import Limits, Served
        from babygpt_exp.serving.server import Place, serve
        from babygpt_exp.trained import load_trained
        from streamer.access import AccessError, Tokens
        from streamer.gate import ListenError

    try:
        with Logging("text"):
            tokens = Tokens(options.token_file)
            trained = load_trained(options.run, options.checkpoint)
            engine = start_engine(
                trained, options.slots, precision=options.precision, compiled=options.compile
            )
            warm_up(engine)
            limits = Limits(
                max_prompt_tokens=options.max_prompt_tokens or trained.model.context,
                max_tokens=options.max_tokens,
                num_waiting=options.queue,
            )
            name = options.name or default_name(options.run)
            served = Served(replace(trained, model=engine.model), name, limits)
            del trained  # its weights, if those of the engine are a copy
            gc.collect()
            gc.freeze()
            asyncio.run(serve(engine, served, tokens, Place(options.host, options.port)))
    except (AccessError, ListenError) as error:
        raise UserError(one_line(error)) from error


def default_name(run: Path) -> str:
    """What a run is called: its folder and the one that is in, as in 2026-11-24-10-00-00."""
    path = run.resolve()
    return f"{path.parent.name}-{path.stem}" if path.is_file() else "-".join(path.parts[-2:])


def warm_up(engine: Engine) -> None:
    """Take the steps that take longest before the first request comes: nobody waits for them.

    A compiled engine compiles a step for every doubling of the longest text, each many seconds.
    """
    from babygpt_exp.generation.request import Request
    from babygpt_exp.model.cache import span
    from babygpt_exp.sampling import Settings

    context = engine.model.context
    spans = {span(size, context) for size in range(1, context + 1)} if engine.compiled else {2}
    for size in sorted(spans):
        began = time.monotonic()
        prompt = (engine.tokenizer.end_of_text,) * max(1, size - 1)
        engine.add(Request(prompt, 2, Settings(temperature=0.0)))
        while engine.is_busy:
            engine.step()
        if engine.compiled:
            seconds = round(time.monotonic() - began, 1)
            event(log, logging.INFO, "compiled", positions=size, seconds=seconds)
