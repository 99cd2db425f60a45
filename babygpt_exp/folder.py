"""A run's folder: where each file is, and how it is written so that nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babygpt_exp.errors import UserError

SUMMARY_ROOM_BYTES = 16_384
"""Size of the first summary.json: room for the last one on a disk that has become full."""

LOCK_SECONDS = 1.0
"""How long a lock may be taken by one that only looks whether it is."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that know no locks, as some of clusters do."""


class RunFolder:
    """Paths of a run, and whole writes below them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.samples = path / "samples.jsonl"
        self.tokenizer = path / "tokenizer.json"
        self.curve = path / "training_curve.svg"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.previous_checkpoint = self.checkpoints / "previous.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.streamer_log = path / "streamer.log"

    def sync_rows(self) -> None:
        """Bring what was logged to the disk itself, so that it outlives a loss of power."""
        for path in (self.metrics, self.samples):
            if path.exists():
                sync(path)

    def remove_unfinished(self) -> None:
        """Take away what a killed process was writing."""
        for place in (self.path, self.checkpoints):
            for path in place.glob(".*.unfinished"):
                path.unlink()

    def start_summary(self, summary: dict[str, Any]) -> None:
        """Write the first summary, filled up with blanks to SUMMARY_ROOM_BYTES."""
        write_whole(self.summary, _json(summary).ljust(SUMMARY_ROOM_BYTES - 1) + "\n")

    def end_summary(self, summary: dict[str, Any]) -> None:
        """Write the last summary; into the room of the first one if the disk is full."""
        text = _json(summary)
        try:
            write_whole(self.summary, text + "\n")
        except OSError:
            blanks = SUMMARY_ROOM_BYTES - 1 - len(text.encode())
            with self.summary.open("r+b") as file:
                file.write(text.encode() + b" " * max(0, blanks) + b"\n")


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep a run's folder from every other process; UserError if one has it.

    The kernel takes the lock away with the process, however it ends.
    """
    path = folder / ".lock"
    deadline = time.monotonic() + LOCK_SECONDS
    while (handle := _try_to_lock(path, say)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"{folder} is in use: its run is going on in another process")
        time.sleep(LOCK_SECONDS / 20)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)  # and with it the lock


def _try_to_lock(path: Path, say: Callable[[str], None]) -> int | None:
    """The handle of a lock file that is ours now; None if another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise
        say("note: this file system has no locks; do not start two processes on one folder")
        return handle
    os.close(handle)  # taken, or the file of one that just let go of it
    return None


def _json(summary: dict[str, Any]) -> str:
    return json.dumps(summary, indent=2)


def write_whole(path: Path, text: str) -> None:
    """Write a file by rename: a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(path.parent)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_whole(source: Path, path: Path) -> None:
    """The same file under a second name, by rename: a link where the disk can, else a copy."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(source, unfinished)
    except OSError:
        shutil.copyfile(source, unfinished)
        sync(unfinished)
    os.replace(unfinished, path)
    unfinished.unlink(missing_ok=True)  # where both were one file, POSIX renames nothing


def remove_empty(folder: Path) -> None:
    """Take away the folders that Hydra made for a run that does not start."""
    for path in (folder, *folder.parents[:2]):
        try:
            path.rmdir()
        except OSError:  # not empty: somebody else's
            return


def append_whole(path: Path, text: str) -> None:
    """Append text to a file in one piece; on a full disk the file stays as it was."""
    data = text.encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        try:
            written = os.write(handle, data)
            if written < len(data):
                os.write(handle, data[written:])
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
