"""A Python process with a deadline, that leaves nothing behind: what is tried may hang or die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
"""Folder that this package is imported from."""


@dataclass(frozen=True)
class Ended:
    """How a process has ended."""

    exit_status: int
    """As a shell knows it; below 0 the signal that has ended it."""
    output: str
    """Its standard output."""
    errors: str
    """Its standard error."""

    @property
    def last_words(self) -> str:
        """The last line of its errors."""
        lines = self.errors.strip().splitlines()
        return lines[-1].strip() if lines else f"exit status {self.exit_status}"


def run_python(arguments: list[str], seconds: float, variables: Mapping[str, str]) -> Ended | None:
    """Python with these arguments, and variables beside our own; None if its time was over.

    It finds the package where we do, and nothing in the current folder. It has a session of its
    own, which is killed as a whole: a compiler's processes too.
    """
    path = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": path, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):  # it and all its children are gone already
                os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, output, errors)
