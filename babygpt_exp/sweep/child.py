"""A job in a child process: forked, watched, and ended with all that it has started."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

PR_SET_PDEATHSIG = 1
"""Of prctl(2): a signal for the child when its parent ends, however that ends."""


@dataclass(frozen=True)
class Job:
    """A job of a sweep."""

    number: int
    """Its place in the sweep, which is the name of its folder too."""
    config: DictConfig
    """Composed, with Hydra's own part."""
    folder: Path
    """Where it runs."""
    overrides: list[str]
    """What it is called with."""
    run: Callable[[], JobReturn]
    """What its process does."""


@dataclass(frozen=True)
class Share:
    """What a job has of the machine."""

    num_threads: int | None
    """Threads for arithmetic; None leaves it to the libraries."""
    gpu: str | None
    """Id of its GPU; None leaves it what is visible."""


class Child:
    """A process that runs a job. `pidfd` is readable once it has ended, `output` when it speaks."""

    def __init__(
        self,
        job: Job,
        share: Share,
        *,
        piped: bool,
        foreign: Iterable[int],
    ) -> None:
        """Fork it. Its output comes by a pipe if `piped`; it closes the files `foreign`."""
        self.job = job
        self.started = time.monotonic()
        self.asked_at: float | None = None
        """When it was asked to stop."""
        self.stop_reason = ""
        """Why, if that is no wish of a person's."""
        self._result = tempfile.TemporaryFile()  # noqa: SIM115, until `end`
        self.output: int | None = None
        end: int | None = None
        if piped:
            self.output, end = os.pipe()
        self._text = b""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads; this process has only idle ones of numerical libraries.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            become(parent, end, [*foreign, *([] if self.output is None else [self.output])], share)
            self._run()
        if end is not None:
            os.close(end)
        if self.output is not None:
            os.set_blocking(self.output, False)
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def handles(self) -> list[int]:
        """Its files in the parent."""
        return [self.pidfd, *([] if self.output is None else [self.output])]

    def _run(self) -> NoReturn:
        """Be the child: leave the result in the file that both have open."""
        sys.argv[1:] = self.job.overrides  # what more processes of this job are to start with
        code = 1
        try:
            result = self.job.run()
            self._result.write(pickled(result))
            self._result.flush()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # nothing may get into the code of the parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

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
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """End it, and all that it has started and that is in its session."""
        os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> tuple[JobReturn | None, int]:
        """After its end: its result (None if it left none), and exit status or minus a signal."""
        with suppress(ProcessLookupError):
            self.kill()  # what it has left behind, as long as its id is its own
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        if self.output is not None:
            os.close(self.output)
        self._result.seek(0)
        data = self._result.read()
        self._result.close()
        result: JobReturn | None = pickle.loads(data) if data else None
        return result, os.waitstatus_to_exitcode(status)


def become(parent: int, output: int | None, foreign: Iterable[int], share: Share) -> None:
    """Make a fork a process of its own, that ends with its parent."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    for handle in foreign:
        os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    if share.num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(share.num_threads)
        if "torch" in sys.modules:  # too late for the variable
            sys.modules["torch"].set_num_threads(share.num_threads)


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
