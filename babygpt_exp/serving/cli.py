"""The command line of the server.

What is slow to import is imported where it is needed: help and mistyped options come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from babygpt_exp.cli import errors_in_a_line
from babygpt_exp.errors import ConfigError, UserError, one_line
from streamer.cli import Parser, check_access

if TYPE_CHECKING:
    from babygpt_exp.generation.engine import Engine
    from babygpt_exp.trained import Trained

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
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training does
    with errors_in_a_line():
        run(options)


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.serve`."""
    parser = Parser(
        prog="python -m babygpt_exp.serve",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, or a checkpoint file")
    add(
        "--checkpoint",
        default="last",
        metavar="last|best|FILE",
        help="which checkpoint of the run (default: last)",
    )
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
    add(
        "--precision",
        choices=("bf16", "fp32"),
        help="arithmetic (default: bf16 where this machine computes in it, else fp32)",
    )
    add("--compile", action="store_true", help="by torch.compile: slow to start, then faster")
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
    from babygpt_exp.serving.completions import Limits, Served
    from babygpt_exp.serving.server import Place, serve
    from babygpt_exp.trained import load_trained
    from streamer.access import AccessError, Tokens
    from streamer.gate import ListenError
    from streamer.logs import Logging

    try:
        with Logging("text"):
            tokens = Tokens(options.token_file)
            trained = load_trained(options.run, options.checkpoint)
            engine = build_engine(trained, options)
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


def build_engine(trained: Trained, options: argparse.Namespace) -> Engine:
    """The engine, on the GPU if there is one, after its first step, which takes longest."""
    import torch

    from babygpt_exp.generation.engine import Engine
    from babygpt_exp.generation.request import Request, Settings
    from babygpt_exp.generation.texts import for_writing
    from babygpt_exp.hardware import find_compiler, has_native_bf16

    is_gpu = torch.cuda.is_available()
    if options.compile and not is_gpu and find_compiler() is None:
        raise ConfigError("--compile needs a C++ compiler: install g++")
    is_fast = torch.cuda.is_bf16_supported() if is_gpu else has_native_bf16()
    is_bf16 = options.precision == "bf16" or (options.precision is None and is_fast)
    model = for_writing(trained.model, torch.bfloat16 if is_bf16 else torch.float32)
    engine = Engine(
        model.to("cuda" if is_gpu else "cpu"),
        trained.tokenizer,
        options.slots,
        compiled=options.compile,
    )
    engine.add(Request((trained.tokenizer.end_of_text,), 2, Settings(temperature=0.0)))
    while engine.is_busy:
        engine.step()
    return engine
