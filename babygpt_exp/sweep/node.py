"""A job of a sweep on a node of a cluster, as the launcher reaches it there."""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from babygpt_exp.sweep.spawned import Parcel, Spawned
from babygpt_exp.sweep.watched import End

ANSWER_SECONDS = 1.0
"""How long `listen` waits for something to tell; a signal to the job waits as long."""

FILE_SECONDS = 20.0
"""How long a node may take to see a new file: a network file system remembers for some seconds that
there was none."""


@dataclass(frozen=True)
class Witness:
    """A file that the launcher has written into the sweep's folder, for nodes to find there."""

    path: Path
    """Absolute."""
    text: str
    """Random, so that it is no other file of that name."""

    @classmethod
    def write(cls, folder: Path) -> Witness:
        """Write it."""
        witness = cls(folder.absolute() / ".nodes", secrets.token_hex(8))
        witness.path.parent.mkdir(parents=True, exist_ok=True)
        witness.path.write_text(witness.text)
        return witness

    def is_seen(self) -> bool:
        """Whether this machine sees it."""
        deadline = time.monotonic() + FILE_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.path.read_text() == self.text:
                    return True
                os.listdir(self.path.parent)  # asks the server again
            except OSError:
                pass
            time.sleep(FILE_SECONDS / 40)
        return False


@dataclass(frozen=True)
class News:
    """What there is to tell of a job."""

    lines: list[str]
    """What it has said."""
    end: End | None
    """How it has ended; None if it runs."""


class Supervisor:
    """Runs a job in a process of its own, which ends with the one that this object is in."""

    def __init__(self) -> None:
        self._job: Spawned | None = None
        self._end: End | None = None

    def begin(
        self, parcel: Parcel, witness: Witness, time_limit_seconds: float | None, again: bool
    ) -> str | None:
        """Start the job; why it is not, if it is not. Does nothing if it is called once more."""
        if self._job is None:
            if not witness.is_seen() or not parcel.cwd.is_dir():
                return (
                    f"{socket.gethostname()} does not see {witness.path.parent}: start the sweep "
                    "in, and give hydra.sweep.dir=, a folder that all nodes share"
                )
            self._time_limit_seconds = time_limit_seconds
            self._job = Spawned(parcel, piped=True, again=again)
        return None

    def listen(self) -> News:
        """Wait for a moment for what the job says, or for its end."""
        if self._end is not None:
            return News([], self._end)
        job = self._job
        assert job is not None, "begin comes first"
        select.select(job.handles, [], [], ANSWER_SECONDS)
        ended = job.has_ended  # before it is heard out
        lines = job.read()
        if ended:
            self._end = job.end()
        else:
            job.keep_to(self._time_limit_seconds)
        return News(lines, self._end)

    def stop(self, number: int) -> None:
        """Ask the job to stop, by a signal."""
        if self._job is not None and self._end is None:
            self._job.ask_to_stop(number)
