"""The server's log: one line a record, as text or JSON, that never holds the server up.

A line begins with the time, the level and the event; what belongs to the event follows as fields.
Lines are written by a thread, and a flood of equal events becomes one line that counts them.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from typing import Any, TextIO

FORMATS = ("text", "json")
LINES_PER_SECOND = 10
"""Of one event; what comes on top is counted."""
MAX_WAITING_LINES = 10_000
"""Lines kept while nobody reads the log; what comes on top is lost."""
FLUSH_SECONDS = 1.0


def event(log: logging.Logger, level: int, name: str, **fields: Any) -> None:
    """Logs that something happened. Fields must be free of secrets; None is left out."""
    known = {key: value for key, value in fields.items() if value is not None}
    log.log(level, name, extra={"event": name, "fields": known})


class TextFormatter(logging.Formatter):
    """`2026-11-24T10:00:00.123Z INFO connected peer=127.0.0.1:4711 protocol=v2`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback where there is one."""
        fields = getattr(record, "fields", None)
        words = [_time(record), record.levelname]
        if fields is None:
            words.append(_one_line(record.getMessage()))
        else:
            words.append(_event(record))
            words += [f"{key}={_text(value)}" for key, value in fields.items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts`, `level`, `event`, the fields, `traceback` for a bug."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {"ts": _time(record), "level": record.levelname.lower(), "event": _event(record)}
        fields = getattr(record, "fields", None)
        line |= {"message": record.getMessage()} if fields is None else fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _event(record: logging.LogRecord) -> str:
    """The name that a record was given, or the module that it comes from."""
    return str(getattr(record, "event", record.name.rpartition(".")[2]))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = _one_line(str(value))
    return json.dumps(text) if not text or " " in text or '"' in text or "=" in text else text


class Flood(logging.Filter):
    """Lets a few records a second of each event pass, and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._counts: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; adds what was left out of the second before."""
        kind = getattr(record, "event", None) or str(record.msg)
        if kind == "suppressed":
            return True
        if int(record.created) != self._second:
            self.flush()
            self._second = int(record.created)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] <= LINES_PER_SECOND

    def flush(self) -> None:
        """Logs what was left out so far."""
        counts, self._counts = self._counts, {}
        for kind, count in counts.items():
            if count > LINES_PER_SECOND:
                fields = {"of": kind, "lines": count - LINES_PER_SECOND}
                event(logging.getLogger(__name__), logging.WARNING, "suppressed", **fields)


class Writer(logging.Handler):
    """Writes lines in a thread: a terminal or pipe that nobody reads stops only this thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hands a line to the thread."""
        if self._lines.qsize() < MAX_WAITING_LINES:
            self._lines.put(self.format(record))

    def close(self) -> None:
        """Writes what is left, as far as that can be done at once."""
        self._lines.put(None)
        self._thread.join(FLUSH_SECONDS)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                continue  # nobody is there to read it, nor to be told of that


class Logging:
    """The log of this process between entering and leaving."""

    def __init__(self, style: str) -> None:
        self._flood = Flood()
        self._writer = Writer(sys.stderr)
        self._writer.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
        self._writer.addFilter(self._flood)

    def __enter__(self) -> Logging:
        root = logging.getLogger()
        root.addHandler(self._writer)
        root.setLevel(logging.INFO)
        # What it warns of, clients that offer something else, has an event of ours.
        logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
        return self

    def __exit__(self, *raised: object) -> None:
        self._flood.flush()
        logging.getLogger().removeHandler(self._writer)
        self._writer.close()
