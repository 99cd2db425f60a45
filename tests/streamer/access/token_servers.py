"""Servers that ask for tokens, and what asks them."""

from __future__ import annotations

import os
import select
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamer_forks import fork
from streamer_harness import REPOSITORY

TOKEN = "correct-horse-battery-staple"
OTHER_TOKEN = "another-horse-battery-staple"
WRONG_TOKEN = "correct-horse-battery-stapler"


class Server:
    """A streamer with any options, whose log can be read while it runs."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            names = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
            self.process = fork(["--port=0", *arguments], names, stderr=log)
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline().decode() if ready else ""
        assert line.startswith("listening on "), line + self.log.read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


Start = Callable[..., Server]


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers
