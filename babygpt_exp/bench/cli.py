"""The command line of the benchmark: training's overrides, and a few settings of its own.

Standard output has one JSON object and nothing else; what goes on is said on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir

from babygpt_exp.cli import errors_in_a_line
from babygpt_exp.options import CONF, options
from streamer.cli import Parser

if TYPE_CHECKING:
    from babygpt_exp.config import Config


@dataclass(frozen=True)
class BenchSettings:
    """What the benchmark itself can be told."""

    overrides: list[str]
    """Overrides of the configuration, as for training."""
    seconds: float
    """Least length of each window: of training, of the bare loop, of the stream, of the peak."""
    pairs: int
    """Windows of the bare loop; there is one more of training, around them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-bench` and of `python -m babygpt_exp.bench`."""
    settings = read_arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training does
    with errors_in_a_line():
        config = compose_config(settings.overrides)
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
    groups = "\n".join(
        f"  {path.name}: {', '.join(options(path.name))}" for path in sorted(CONF.glob("*/"))
    )
    parser = Parser(
        prog="python -m babygpt_exp.bench",
        description="Measure how fast a configuration trains here, against a bare loop in plain\n"
        "PyTorch, against the peak of this machine and against its stream; and how fast it\n"
        "writes. Prints one JSON object and leaves nothing behind. On two cores it takes about\n"
        "a minute for model=nano and four for model=baby.",
        epilog=f"groups and their options (group=option), as in training:\n{groups}\n\n"
        "python -m babygpt_exp --help lists the values (key=value) and their defaults",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="group=option or key=value, as in training"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="least length of each window; a window has three steps at least (default: 3)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=5,
        help="windows of the bare loop, each between two of training (default: 5)",
    )
    return parser


def compose_config(overrides: list[str]) -> Config:
    """The config of a run with these overrides, checked as before a run; W&B stays offline."""
    from babygpt_exp.config import load
    from babygpt_exp.hardware import choose_machine
    from babygpt_exp.tracking.config import WandbConfig

    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = load(compose("config", overrides))
    choose_machine(config.hardware, config.precision)
    if isinstance(config.logger, WandbConfig) and config.logger.mode == "online":
        return replace(config, logger=replace(config.logger, mode="offline"))
    return config
