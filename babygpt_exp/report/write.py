"""The files of a report, in the folder that it is about."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from babygpt_exp.errors import UserError
from babygpt_exp.folder import NO_LOCKS, write_whole
from babygpt_exp.report.content import Report
from babygpt_exp.report.runs import is_run, read_report, run_folders
from babygpt_exp.report.tables import csv_text, markdown

LOCK = ".report.lock"
"""Who has it locked writes the report; it stays, since others may wait for it."""

WAIT_SECONDS = 60.0
"""How long to wait for others that write the report; a large one takes them a few seconds."""


def write_report(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Write the report of a sweep or of a run into its folder; returns the page.

    Raises UserError if there are no runs, and if it can not be written.
    """
    return write_and_read(folder, say)[0]


def write_and_read(folder: Path, say: Callable[[str], None]) -> tuple[Path, Report]:
    """The same, and what it says. A sweep has summary.csv and summary.md too."""
    from babygpt_exp.report.page import render

    run_folders(folder)  # no lock is left where nothing is
    page = folder / "report.html"
    with alone(folder, say):
        report = read_report(folder)
        if not is_run(folder):
            write_text(folder / "summary.csv", csv_text(report))
            write_text(folder / "summary.md", markdown(report))
        write_text(page, render(report))
    return page, report


def write_text(path: Path, text: str) -> None:
    """Write a file whole; what no UTF-8 can have becomes a question mark."""
    with writing(path):
        write_whole(path, text.encode(errors="replace").decode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context that says which file can not be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} can not be written: {error.strerror}") from error


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from writing the report; UserError after WAIT_SECONDS of waiting.

    Who waits reads after who wrote: the last report knows everything.
    """
    with writing(folder / LOCK):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not try_lock(handle, say):
            if time.monotonic() > deadline:
                raise UserError(
                    f"another process has been writing the report of {folder} for "
                    f"{WAIT_SECONDS:g} s: try again when it has ended"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)  # and with it the lock


def try_lock(handle: int, say: Callable[[str], None]) -> bool:
    """Whether the lock is ours now; also where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say("note: this file system has no locks; do not make a report twice at the same time")
    return True
