"""Servers as forks of a process that has imported all they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from forked_processes import Forked, ForkServer

STREAMERS = ForkServer("streamer.cli", "streamer.bench", "pyarrow.parquet", "tokenizers")
"""What they are forked from."""


def fork(
    arguments: Sequence[str], environment: dict[str, str], stderr: IO[Any] | None = None
) -> Forked:
    """`python -m streamer ARGUMENTS`, there at once; see streamer_harness.start_fresh."""
    cwd = Path(os.getcwd())
    return STREAMERS.start("streamer", *arguments, cwd=cwd, env=environment, stderr=stderr)
