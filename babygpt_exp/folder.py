"""A run's folder: where each file is, and how it is written so that nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SUMMARY_ROOM_BYTES = 16_384
"""Size of the first summary.json: room for the last one on a disk that has become full."""


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
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.streamer_log = path / "streamer.log"

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
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


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
