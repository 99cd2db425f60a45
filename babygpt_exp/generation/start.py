"""What the commands that write text have in common: options of the model, and an engine for it.

What is slow to import is imported where it is needed: help and mistyped options come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from babygpt_exp.errors import ConfigError
from streamer.cli import Parser

if TYPE_CHECKING:
    import torch

    from babygpt_exp.generation.engine import Engine
    from babygpt_exp.trained import Trained

Precision = Literal["bf16", "fp32"]
"""Arithmetic that can be asked for."""


def add_model_options(parser: Parser) -> None:
    """RUN, and which of its weights compute how."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, or a checkpoint file")
    add(
        "--checkpoint",
        default="last",
        metavar="last|best|FILE",
        help="which checkpoint of the folder: the last one, the one with the fewest bits a byte, "
        "or a file (default: last)",
    )
    add(
        "--precision",
        choices=("bf16", "fp32"),
        help="arithmetic (default: bf16 where this machine computes in it, else fp32)",
    )
    add("--compile", action="store_true", help="by torch.compile: slow to start, then faster")


def start_engine(
    trained: Trained,
    num_slots: int,
    *,
    precision: Precision | None,
    cached: bool = True,
    compiled: bool = False,
) -> Engine:
    """The engine, on the GPU if there is one; ConfigError where it can not be compiled."""
    import torch

    from babygpt_exp.generation.engine import Engine
    from babygpt_exp.generation.texts import for_writing
    from babygpt_exp.hardware import do_without_openssl, why_not_compiled

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if compiled and device.type == "cpu" and (problem := why_not_compiled()):
        raise ConfigError(f"--compile can not be had: {problem}, or leave it out")
    if compiled:
        do_without_openssl()
    model = for_writing(trained.model, choose_type(precision, device)).to(device)
    return Engine(model, trained.tokenizer, num_slots, cached=cached, compiled=compiled)


def choose_type(precision: Precision | None, device: torch.device) -> torch.dtype:
    """The type of the weights that was asked for, or the faster one here."""
    import torch

    from babygpt_exp.hardware import has_native_bf16

    if precision is None:
        is_fast = has_native_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
        precision = "bf16" if is_fast else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32
