"""One process that has imported modules, and forks: `python tests/fork_server.py MODULE...`.

Its standard input is a socket. A message is what a fork is to be, with three descriptors: a
connection, standard output and standard error. The connection is the fork's life: it tells its pid
and its exit status, and when it closes, as somebody is done with the fork or is no more himself,
the fork is killed. At the end of its input the server ends, with all of them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from forked_processes import MESSAGE_BYTES, NUM_THREADS, Death


@dataclass(frozen=True)
class Life:
    """A fork, as its server sees it."""

    pid: int
    connection: socket.socket
    end: int
    """Its pidfd."""


class Parent:
    """The server's own side."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._lives: list[Life] = []

    def next_request(self) -> dict[str, Any] | None:
        """In a new fork, what it is asked to be; in the server None, when all is over."""
        while True:
            key, _ = self._selector.select()[0]
            if key.data is None:
                message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
                if not message:
                    for life in self._lives.copy():
                        self._bury(life)
                    return None
                if self._fork(*descriptors):
                    return dict(json.loads(message))
            elif key.fd == key.data.end:
                self._tell(key.data)
            else:
                self._bury(key.data)

    def _fork(self, connection: int, output: int, errors: int) -> bool:
        """Whether this is the fork, which has nothing then but its standard streams."""
        life = socket.socket(fileno=connection)
        pid = os.fork()
        if pid:
            self._lives.append(Life(pid, life, os.pidfd_open(pid)))
            for end in (life, self._lives[-1].end):
                self._selector.register(end, selectors.EVENT_READ, self._lives[-1])
            with contextlib.suppress(OSError):  # who asked may be gone; then the next event ends it
                life.send(str(pid).encode())
        else:
            os.setsid()
            for other in self._lives:
                other.connection.close()
                os.close(other.end)
            self._selector.close()
            self._control.close()
            life.close()
            os.dup2(output, 1)
            os.dup2(errors, 2)
        os.close(output)
        os.close(errors)
        return pid == 0

    def _tell(self, life: Life) -> None:
        """It ended; it is a zombie until whoever asked for it knows."""
        found = os.waitid(os.P_PIDFD, life.end, os.WEXITED | os.WNOWAIT)
        assert found is not None
        code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        with contextlib.suppress(OSError):
            life.connection.send(str(code).encode())
        self._selector.unregister(life.end)

    def _bury(self, life: Life) -> None:
        """Nobody wants to know any more."""
        os.kill(life.pid, signal.SIGKILL)
        os.waitpid(life.pid, 0)
        if life.end in self._selector.get_map():
            self._selector.unregister(life.end)
        self._selector.unregister(life.connection)
        life.connection.close()
        os.close(life.end)
        self._lives.remove(life)


def become(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], death: dict[str, Any] | None
) -> None:
    """Be `python -m MODULE ARGUMENTS`."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd
    tempfile.tempdir = None
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed()
    if "torch" in sys.modules and NUM_THREADS in env:
        import torch

        torch.set_num_threads(int(env[NUM_THREADS]))
    if death is not None:
        Death(**death).prepare()
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Import the modules that are named, then fork as long as there are requests."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # what is not touched stays shared
    request = Parent(control).next_request()
    if request is not None:
        become(**request)


if __name__ == "__main__":
    main()
