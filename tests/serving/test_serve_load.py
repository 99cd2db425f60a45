"""Many clients at once, clients that go and clients that wait: nobody costs the others anything."""

from __future__ import annotations

import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from experiment_harness import SECONDS, wait_until
from serve_harness import ENDLESS, JSON, NUM_SLOTS, TOKEN, Server, Start

BROKEN = """\
from babygpt_exp.generation.engine import Engine
real = Engine.step
def step(self):
    if any(text and text.num_added == 3 and 7 in text.request.prompt for text in self.texts):
        raise RuntimeError("out of memory")
    return real(self)
Engine.step = step
from babygpt_exp.serving.cli import main
main()
"""
"""A program whose engine fails with the fourth token behind a prompt that has token 7."""


class TestLoad:
    """Who goes away, who waits, who does not read."""

    def test_slots_are_free_when_clients_have_gone(self, server: Server) -> None:
        cancelled = server.metric("babygpt_serve_cancelled_total")
        stream = server.complete(prompt="The", n=3, stream=True, **ENDLESS)
        next(stream)
        assert server.health()["slots_busy"] == 3
        stream.close()
        body = json.dumps({"prompt": ["The"] * 6, **ENDLESS}).encode()
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            wait_until(lambda: server.health()["queue"] >= 2, "a queue")
        server.wait_until_free()
        assert server.metric("babygpt_serve_cancelled_total") == cancelled + 9

    def test_a_slow_reader_costs_the_others_nothing(self, server: Server) -> None:
        stream = server.complete(prompt="The", stream=True, logprobs=20, **ENDLESS)
        next(stream)
        found = server.complete(prompt="The", max_tokens=30, temperature=0)
        assert found.usage.completion_tokens == 30
        stream.close()
        server.wait_until_free()

    def test_a_full_queue(self, strict: Server) -> None:
        with strict.complete(prompt="The", n=NUM_SLOTS, stream=True, **ENDLESS) as stream:
            next(stream)
            body = json.dumps({"prompt": ["The"] * 2}).encode()
            headers = JSON | {"Authorization": f"Bearer {TOKEN}"}
            status, answered, _ = strict.fetch("/v1/completions", body, headers)
            assert (status, int(answered["Retry-After"])) == (429, 2)
            with pytest.raises(openai.RateLimitError, match="too many texts are waiting"):
                strict.complete(prompt="The", n=2)
            waiting = threading.Thread(target=strict.complete, kwargs={"prompt": "The"})
            waiting.start()
            wait_until(lambda: strict.health()["queue"] == 1, "the one that may wait")
        waiting.join(SECONDS)
        assert not waiting.is_alive()

    def test_the_end(self, strict: Server) -> None:
        """Told to stop, it ends what it writes, tells who is there, and takes nobody new."""
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(strict.complete, prompt="A", **ENDLESS)
            stream = strict.complete(prompt="The", stream=True, **ENDLESS)
            next(stream)
            wait_until(lambda: strict.health()["slots_busy"] == 2, "both")
            strict.process.send_signal(signal.SIGTERM)
            wait_until(lambda: strict.fetch("/health")[0] == 503, "the end to begin")
            with pytest.raises(openai.InternalServerError, match="the server is stopping"):
                strict.complete(prompt="The")
            with pytest.raises(openai.APIError, match="the server is stopping"):
                for _ in stream:
                    pass
            with pytest.raises(openai.InternalServerError, match="the server is stopping"):
                whole.result(SECONDS)
        output, errors = strict.process.communicate(SECONDS)
        assert (strict.process.returncode, output) == (0, "")
        assert TOKEN not in errors

    def test_an_engine_that_fails(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text(BROKEN)
        server = start(cwd=tmp_path, module="broken")
        asked = {"prompt": [0, 7], "temperature": 0.0}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.complete, prompt="A", **ENDLESS)
            wait_until(lambda: server.health()["slots_busy"] == 1, "a neighbour")
            with pytest.raises(openai.APIError, match="the engine has failed: RuntimeError"):
                for _ in server.complete(**asked, stream=True):
                    pass
            with pytest.raises(openai.InternalServerError, match="the engine has failed"):
                waiting.result(SECONDS)
        status, _, data = server.fetch("/health")
        assert (status, json.loads(data)["slots_busy"]) == (503, 0)
        with pytest.raises(openai.InternalServerError, match="the engine has failed"):
            server.complete(**asked)
        _, errors = server.stop()
        assert errors.count("RuntimeError: out of memory") == 1
