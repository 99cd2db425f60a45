"""What the tests of the streamer share: servers and conversations."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from tokenizers import Tokenizer

from streamer.client import Batch, StreamClient
from streamer.protocol import SUBPROTOCOL

REPOSITORY = Path(__file__).resolve().parents[2]
EOT = "<|endoftext|>"
FRACTION = 0.1
SALT = "salt"
Socket = aiohttp.ClientWebSocketResponse


def start_fresh(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """`python -m streamer ARGUMENTS` as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "streamer", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


class ServerProcess:
    """A streamer, and what it says."""

    def __init__(
        self,
        source: Path | str,
        cache_dir: Path,
        *arguments: str,
        port: int = 0,
        start: Callable[..., Any] = start_fresh,
    ) -> None:
        self.errors = ""
        options = ["--source", str(source), "--cache-dir", str(cache_dir), "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = start([*options, *arguments], environment)
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("listening on ws://"):
            self.kill()
            raise AssertionError(f"no server: {line} {self.errors}")
        self.url = line.split()[-1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        _, errors = self.process.communicate(timeout=seconds)
        self.errors += errors.decode()
        return int(self.process.returncode)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
            self.wait()


def make_plan(tokenizer_json: str, **changes: Any) -> dict[str, Any]:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    return {
        "tokenizer": {
            "hash": hashlib.sha256(tokenizer_json.encode()).hexdigest(),
            "eot_id": tokenizer.token_to_id(EOT),
        },
        "sequence_length": 64,
        "validation": {"fraction": FRACTION, "salt": SALT},
        "shuffle": {"shards": 2, "seed": 5},
    } | changes


def sha256(batches: Iterable[Batch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.tokens.tobytes())
        digest.update(batch.lengths.tobytes())
        digest.update(json.dumps([batch.start, batch.next]).encode())
    return digest.hexdigest()


def rows(batches: Iterable[Batch]) -> list[list[int]]:
    return [
        row[:length].tolist()
        for batch in batches
        for row, length in zip(batch.tokens, batch.lengths, strict=True)
    ]


def epoch(client: StreamClient, plan: dict[str, Any], batch: int, **options: Any) -> list[Batch]:
    options = {"split": "train", "epochs": 1, **options}
    return list(client.open(plan=plan, batch=batch, **options))


def talk(
    url: str, speech: Callable[[Socket], Awaitable[None]], protocols: Any = (SUBPROTOCOL,)
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession() as session,
            session.ws_connect(url, protocols=protocols, max_msg_size=1 << 26) as socket,
        ):
            await speech(socket)

    asyncio.run(run())


async def ask(socket: Socket, message: Any) -> dict[str, Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    await socket.send_str(text)
    return dict(json.loads(await socket.receive_str()))
