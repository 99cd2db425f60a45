"""A server of a trained model, and ways to talk to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from experiment_harness import EXPERIMENTS, SECONDS, wait_until

TOKEN = "correct-horse-battery-staple"
JSON = {"Content-Type": "application/json"}
NUM_SLOTS = 4
ENDLESS = {"temperature": 0.0, "max_tokens": 100_000}
"""A text that is still being written whenever a test looks."""


class Server:
    """A server, and ways to talk to it."""

    def __init__(
        self,
        run: Path,
        *arguments: str,
        cwd: Path,
        env: dict[str, str],
        module: str = "babygpt_exp.serve",
        key: str = "none",
    ) -> None:
        options = ("--port=0", "--precision=fp32", f"--slots={NUM_SLOTS}", "--max-tokens=100000")
        self.process = EXPERIMENTS.start(
            module, str(run), *options, *arguments, cwd=cwd, env=env, text=True
        )
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("serving "):
            self.process.kill()
            raise AssertionError((line, self.process.communicate(SECONDS)))
        self.name, self.url = line.split()[1], line.split()[-1]
        self.port = int(self.url.rpartition(":")[2].rstrip("/"))
        self._headers = {"Authorization": f"Bearer {key}"}
        self.openai = self.client(key)

    def client(self, key: str = "none") -> openai.OpenAI:
        """OpenAI's client, which asks once."""
        return openai.OpenAI(
            base_url=f"{self.url}v1", api_key=key, max_retries=0, timeout=float(SECONDS)
        )

    def complete(self, **fields: Any) -> Any:
        """OpenAI's client's completion; what it does not know itself goes beside it."""
        extra = {name: fields.pop(name) for name in ("top_k", "min_p") if name in fields}
        return self.openai.completions.create(model=self.name, extra_body=extra, **fields)

    def fetch(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            verb = method or ("GET" if body is None else "POST")
            connection.request(verb, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def health(self) -> dict[str, Any]:
        """What /health says."""
        return dict(json.loads(self.fetch("/health")[2]))

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        lines = self.fetch("/metrics", headers=self._headers)[2].decode().splitlines()
        (value,) = [line.split()[-1] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    def wait_until_free(self) -> None:
        """Nothing is written and nobody waits."""
        wait_until(lambda: self.health()["slots_busy"] == self.health()["queue"] == 0, "free slots")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        """The rest of what it says, after a signal; it must end well."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(SECONDS)
        assert self.process.returncode == 0, errors
        return str(output), str(errors)


Start = Callable[..., Server]
