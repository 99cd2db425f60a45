"""The command line of the benchmark: training's overrides, and a few settings of its own.

Standard output has one JSON object and nothing else; what goes on is said on standard error.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from babygpt_exp.bench.settings import BenchSettings
from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import ConfigError
from babygpt_exp.options import groups_text
from streamer.cli import Parser

if TYPE_CHECKING:
    from babygpt_exp.config import Config


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-bench` and of `python -m babygpt_exp.bench`."""
    settings = read_arguments(argv)
    with errors_in_a_line():
        config = config_of(settings.overrides)
        with importing_torch():
            from babygpt_exp.bench.figures import measure

        with (
            tempfile.TemporaryDirectory(prefix="babygpt-bench-") as folder,
            redirect_stdout(sys.stderr),
        ):
            figures = measure(config, settings, Path(folder))
        print(json.dumps(figures, indent=2))


def read_arguments(argv: Sequence[str] | None) -> BenchSettings:
    """Settings and overrides; ends the process with 2 where they are wrong."""
    parser = build_parser()
    arguments = parser.parse_intermixed_args(argv)
    if not 0 < arguments.seconds <= 600:
        parser.error("--seconds must be above 0 and at most 600")
    if not 1 <= arguments.pairs <= 100:
        parser.error("--pairs must be between 1 and 100")
    for override in arguments.overrides:
        if "=" not in override and not override.startswith("~"):
            parser.error(f"{override} is no override: write key=value or group=option")
    return BenchSettings(arguments.overrides, arguments.seconds, arguments.pairs)


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.bench`."""
    parser = Parser(
        prog="python -m babygpt_exp.bench",
        description="Measure how fast a configuration trains here, against a bare loop in plain\n"
        "PyTorch, against the peak of this machine and against its stream; and how fast it\n"
        "writes. Prints one JSON object and leaves nothing behind. On two cores it takes about\n"
        "a minute for model=nano and four for model=baby.",
        epilog=f"groups and their options (group=option), as in training:\n{groups_text()}\n\n"
        "python -m babygpt_exp --cfg job lists the values (key=value) and their defaults",
        examples=(
            "python -m babygpt_exp.bench model=nano --seconds 1 --pairs 2",
            "python -m babygpt_exp.bench model=baby optimizer=adamw precision=32-true",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="group=option or key=value, as in training"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="least seconds of each window; a window has three steps at least (default: 3)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=5,
        help="windows of the bare loop, each between two of training (default: 5)",
    )
    return parser


def config_of(overrides: list[str]) -> Config:
    """The config of a run with these overrides, checked as before a run; W&B stays offline."""
    with importing_torch():
        from babygpt_exp.compose import compose_config
        from babygpt_exp.hardware import ParallelConfig, choose_machine
        from babygpt_exp.tracking.config import WandbConfig

    config = compose_config(overrides)
    if isinstance(config.hardware, ParallelConfig):
        raise ConfigError(
            f"hardware={config.hardware.name} is for several processes and the benchmark measures "
            "one; take hardware=auto, cpu or gpu"
        )
    choose_machine(config.hardware, config.precision)
    if isinstance(config.logger, WandbConfig) and config.logger.mode == "online":
        return replace(config, logger=replace(config.logger, mode="offline"))
    return config
