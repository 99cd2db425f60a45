"""A job in a child process that is forked from this one."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from babygpt_exp.parent import end_with_parent
from babygpt_exp.sweep.watched import Watched, run_and_leave


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


class Child(Watched):
    """A fork of this process that runs a job."""

    def __init__(
        self,
        job: Job,
        share: Share,
        *,
        piped: bool,
        foreign: Iterable[int],
    ) -> None:
        """Fork it. Its output comes by a pipe if `piped`; it closes the files `foreign`."""
        super().__init__()
        self.job = job
        end: int | None = None
        if piped:
            self.output, end = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads; this process has only idle ones of numerical libraries.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            become(parent, end, [*foreign, *([] if self.output is None else [self.output])], share)
            run_and_leave(job.run, self._result)
        if end is not None:
            os.close(end)
        if self.output is not None:
            os.set_blocking(self.output, False)
        self.pidfd = os.pidfd_open(self.pid)


def become(parent: int, output: int | None, foreign: Iterable[int], share: Share) -> None:
    """Make a fork a process of its own, that ends with its parent."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    end_with_parent(parent)
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
