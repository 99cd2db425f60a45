"""An embedded streamer: a server of one's own, in its own process, that never outlives its user."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from streamer.access import SERVER_TOKEN_VARIABLE
from streamer.closing import Closing

STOP_SECONDS = 4.5
"""After SIGTERM and this long, the process is killed."""
LOOK_SECONDS = 0.5
"""Time between looks at whether the log grew, while the server starts."""


class EmbeddedStreamerError(Exception):
    """The server did not start; the message is its own, one line."""


class EmbeddedStreamer(Closing):
    """Serves `sources` (PATH_OR_URL[=WEIGHT]) at `.url` between entering and leaving.

    The process has its own session, so that Ctrl-C in a terminal reaches only its user, who stops
    it; it also stops by itself when its user ends in any other way.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        column: str = "text",
        on_bad_document: str = "error",
        prompt: Sequence[str] = (),
        token: str = "",
        cache_dir: Path | None = None,
        log_path: Path | None = None,
        startup_seconds: float = 120.0,
    ) -> None:
        """startup_seconds: how long the server may log nothing until it is ready."""
        self.url = ""
        """Address to give to StreamClient."""
        self.token = token
        """Secret that clients must send; "" lets in every user of this machine."""
        self._startup_seconds = startup_seconds
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        # -P: a folder named streamer where the user happens to stand is not this package.
        self._command = [sys.executable, "-P", "-m", "streamer", "--stop-with-parent"]
        self._command += [f"--source={source}" for source in sources]
        self._command += [f"--column={column}", f"--on-bad-document={on_bad_document}"]
        self._command += [f"--prompt={piece}" for piece in prompt]
        if cache_dir is not None:
            self._command.append(f"--cache-dir={cache_dir}")

    def __enter__(self) -> Self:
        package_parent = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        with self._open_log() as log:
            log_start = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [*self._command, f"--port={self._port}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path, SERVER_TOKEN_VARIABLE: self.token},
                start_new_session=True,
            )
            try:
                self.url = self._read_url(log, log_start)
            except BaseException:
                self.close()
                raise
        return self

    def restart_if_ended(self) -> None:
        """Starts a server that has ended again, at the same address: its clients come back.

        Raises EmbeddedStreamerError if it does not start.
        """
        if self._process is not None and self._process.poll() is not None:
            self.close()
            self._port = int(self.url.rsplit(":", 1)[1].partition("/")[0])
            self.__enter__()

    @property
    def process_id(self) -> int:
        """Of the server; it must be running."""
        if self._process is None:
            raise RuntimeError("the embedded streamer is not running")
        return self._process.pid

    def close(self) -> None:
        """Stops the server within 5 s; does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _open_log(self) -> IO[bytes]:
        if self._log_path is None:
            return tempfile.TemporaryFile()
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        return open(self._log_path, "a+b")

    def _read_url(self, log: IO[bytes], log_start: int) -> str:
        """Waits for the line that says where the server listens; raises EmbeddedStreamerError."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        said, log_end, deadline = b"", -1, 0.0
        while not said.endswith(b"\n"):
            if (end := os.fstat(log.fileno()).st_size) != log_end:  # it lists its sources still
                log_end, deadline = end, time.monotonic() + self._startup_seconds
            left = deadline - time.monotonic()
            if left <= 0:
                raise EmbeddedStreamerError(
                    f"the embedded streamer was not ready within {self._startup_seconds:g} s "
                    "of its last word"
                )
            if not select.select([pipe], [], [], min(left, LOOK_SECONDS))[0]:
                continue
            chunk = os.read(pipe, 4096)
            if not chunk:
                log.seek(log_start)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise EmbeddedStreamerError(
                    lines[-1] if lines else "the embedded streamer ended without a word"
                )
            said += chunk
        return said.decode().split()[-1]
