"""Processes of this project as children of one that has imported everything: quick to start.

`python -m MODULE` begins with seconds of imports, the same ones for hundreds of tests. Here one
process imports them, and a fork of it becomes each process that is asked for: in a session of its
own, with its own arguments, folder, environment and pipes, and with nothing of its siblings.

That process is fork_server.py; it ends, with all its forks, when whoever started it does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

SERVER = str(Path(__file__).with_name("fork_server.py"))
START_SECONDS = 120.0
"""How long the start of a process may take, that of the server and all its imports included."""
STOP_SECONDS = 30.0
"""How long the end of the server may take."""
MESSAGE_BYTES = 1 << 17
"""Size up to which messages are read; one holds an environment."""
READ_EARLY = (
    *("ARROW_", "GOMP_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_"),
    *("PYTHON", "TOKENIZERS_", "TORCH"),
)
"""How the names of variables begin that are read once, while importing or before."""
NUM_THREADS = "OMP_NUM_THREADS"
"""The one of them that can be set later on."""


@dataclass(frozen=True)
class Death:
    """A moment at which a process sends itself a signal."""

    place: str
    """Module and name of a function or method, as in `babygpt_exp.module:GPTModule.nats`."""
    call: int
    """The how many-th call of it."""
    number: int = signal.SIGKILL
    """The signal."""
    pause_seconds: float = 0.0
    """How long that call takes after it."""

    def prepare(self) -> None:
        """Put a function that sends the signal in the place of the real one."""
        module, _, path = self.place.partition(":")
        owner = importlib.import_module(module)
        *owners, name = path.split(".")
        for part in owners:
            owner = getattr(owner, part)
        real, calls = getattr(owner, name), 0

        def function(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call:
                os.kill(os.getpid(), self.number)
                time.sleep(self.pause_seconds)
            return real(*args, **kwargs)

        setattr(owner, name, function)


class Forked:
    """A process, with as much of `subprocess.Popen` as tests use."""

    def __init__(self, connection: socket.socket, pipes: list[int], *, text: bool) -> None:
        self._connection, self._text = connection, text
        self.stdout, self.stderr = (io.FileIO(pipe) for pipe in pipes)
        self.returncode: int | None = None
        """Exit status, or minus the signal that ended it; None as long as it runs."""
        self.pid = self._receive(START_SECONDS)
        """Nobody else's before `returncode` is set: until then the server leaves a zombie."""

    def _receive(self, seconds: float | None) -> int:
        self._connection.settimeout(seconds)
        message = self._connection.recv(MESSAGE_BYTES)
        assert message, "the server of forked processes has ended"
        return int(message)

    def poll(self) -> int | None:
        """`returncode`, as it is now."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """`returncode`, after its end."""
        if self.returncode is None:
            try:
                self.returncode = self._receive(timeout)
            except (BlockingIOError, TimeoutError) as error:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from error
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """What it says until its end, and until that of all who have its pipes."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = {self.stdout: b"", self.stderr: b""}
        with selectors.DefaultSelector() as selector:
            for pipe in said:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(left(deadline))
                if not ready:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 16)
                    said[key.fileobj] += chunk  # type: ignore[index]
                    if not chunk:
                        selector.unregister(key.fileobj)
        self.wait(left(deadline))
        for pipe in said:
            pipe.close()
        output, errors = said.values()
        return (output.decode(), errors.decode()) if self._text else (output, errors)

    def send_signal(self, number: int) -> None:
        """Does nothing after its end."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks of a process with some modules; it starts with the first of them."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None

    def can_start(self, env: Mapping[str, str]) -> bool:
        """Whether a fork would see all of an environment."""
        early = dict(early_variables(env))
        return self._process is None or early == self._early

    def start(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str],
        stderr: IO[Any] | None = None,
        text: bool = False,
        death: Death | None = None,
    ) -> Forked:
        """`python -m MODULE ARGUMENTS`, whose standard input is empty.

        Without `stderr` standard error is a pipe, as standard output is.
        """
        if self._process is None:
            self._begin(env)
        assert self.can_start(env), env
        request: dict[str, Any] = {
            "module": module,
            "arguments": arguments,
            "cwd": str(cwd),
            "env": dict(env),
        }
        request["death"] = None if death is None else asdict(death)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (output, output_end), (errors, errors_end) = os.pipe(), os.pipe()
        ends = [theirs.fileno(), output_end, errors_end if stderr is None else stderr.fileno()]
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], ends)
        finally:
            theirs.close()
            os.close(output_end)
            os.close(errors_end)
        return Forked(ours, [output, errors], text=text)

    def _begin(self, env: Mapping[str, str]) -> None:
        self._early = dict(early_variables(env))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_SECONDS)
        # Threads are to wait as babygpt's do, which says so before it imports torch.
        passive = {"OMP_WAIT_POLICY": "PASSIVE"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, SERVER, *self._modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: env[name] for name in env if name != NUM_THREADS} | passive,
                start_new_session=True,
            )

    def close(self) -> None:
        """End it and all its forks."""
        if self._process is not None:
            self._control.close()
            assert self._process.wait(STOP_SECONDS) == 0
            self._process = None


def left(deadline: float | None) -> float | None:
    """Seconds until then."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def early_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What of an environment a process has read before it is forked."""
    for name, value in env.items():
        if name.startswith(READ_EARLY) and name != NUM_THREADS:
            yield name, value
