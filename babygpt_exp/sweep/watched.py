"""A process that runs a job of a sweep, as the one sees it that has started it."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, NoReturn

from hydra.core.utils import JobReturn

GRACE_SECONDS = 30.0
"""How long a job that was asked to stop may take; its checkpoint is written within 10."""


@dataclass(frozen=True)
class End:
    """How a job's process ended."""

    data: bytes
    """Its result, pickled; empty if it left none."""
    code: int
    """Exit status, or minus a signal."""
    reason: str
    """Why it was stopped; empty if nobody did that, or a person did."""

    @property
    def result(self) -> JobReturn | None:
        """What the job returned; None if it did not get that far."""
        result: JobReturn | None = pickle.loads(self.data) if self.data else None
        return result


class Watched:
    """A process that runs a job, in a session of its own.

    `pidfd` is readable once it has ended, `output` (if it is a pipe to here) when it speaks.
    """

    pid: int
    pidfd: int

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.asked_at: float | None = None
        """When it was asked to stop."""
        self.stop_reason = ""
        """Why, if that is no wish of a person's."""
        self.output: int | None = None
        self._result = tempfile.TemporaryFile()  # noqa: SIM115, until `end`
        self._text = b""

    @property
    def handles(self) -> list[int]:
        """Its files in this process."""
        return [self.pidfd, *([] if self.output is None else [self.output])]

    @property
    def has_ended(self) -> bool:
        """Whether its process has; `end` is to be called then."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def read(self) -> list[str]:
        """Whole lines of what it has said since; what is left of one too, if it has ended."""
        if self.output is None:
            return []
        ended = self.has_ended
        with suppress(BlockingIOError):
            while chunk := os.read(self.output, 65536):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        if ended and self._text:
            lines.append(self._text)
        return [line.decode(errors="replace") for line in lines]

    def ask_to_stop(self, number: int, reason: str = "") -> None:
        """Send it SIGINT or SIGTERM; `reason` is why, if that is no wish of a person's."""
        self.asked_at = self.asked_at or time.monotonic()
        self.stop_reason = self.stop_reason or reason
        with suppress(ProcessLookupError):  # it has ended, and `end` is still to be called
            signal.pidfd_send_signal(self.pidfd, number)

    def keep_to(self, time_limit_seconds: float | None) -> None:
        """Ask it to stop if it is over its time, and kill it if it does not."""
        now = time.monotonic()
        if (
            time_limit_seconds is not None
            and now > self.started + time_limit_seconds
            and self.asked_at is None
        ):
            self.ask_to_stop(signal.SIGTERM, f"time limit of {time_limit_seconds:g} s")
        if self.asked_at is not None and now > self.asked_at + GRACE_SECONDS:
            self.kill()

    def kill(self) -> None:
        """End it, and all that it has started and that is in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> End:
        """After its end: how that was."""
        self.kill()  # what it has left behind, as long as its id is its own
        code = self._exit_code()
        os.close(self.pidfd)
        if self.output is not None:
            os.close(self.output)
        self._result.seek(0)
        data = self._result.read()
        self._result.close()
        return End(data, code, self.stop_reason)

    def _exit_code(self) -> int:
        """Exit status, or minus a signal, of a process that has ended; its id is free then."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run_and_leave(run: Callable[[], JobReturn], file: IO[bytes]) -> NoReturn:
    """Be the process of a job: run it, write what it returns into a file, and end."""
    code = 1
    try:
        result = run()
        file.write(pickled(result))
        file.flush()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # nothing may get into the code of the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def pickled(result: JobReturn) -> bytes:
    """A result as bytes; what can not be sent becomes text."""
    try:
        data = pickle.dumps(result)
        pickle.loads(data)  # an exception may go out and not come in again
    except Exception:
        value = result._return_value
        result._return_value = RuntimeError(f"{type(value).__name__}: {value}")
        data = pickle.dumps(result)
    return data
