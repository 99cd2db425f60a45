"""`python -m babygpt_exp.serve`: real servers, OpenAI's own client, and clients that misbehave."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from experiment_harness import EXPERIMENTS, SECONDS, TinyRun, wait_until

from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request, Settings
from babygpt_exp.generation.texts import generate
from babygpt_exp.serving.answers import TokenNames
from babygpt_exp.serving.cli import default_name, main
from babygpt_exp.serving.completions import Limits, Served, read_completion
from babygpt_exp.serving.errors import Refused
from babygpt_exp.serving.metrics import Histogram
from babygpt_exp.trained import Trained, load_trained

TOKEN = "correct-horse-battery-staple"
JSON = {"Content-Type": "application/json"}
NUM_SLOTS = 4
ENDLESS = {"temperature": 0.0, "max_tokens": 100_000}
"""A text that is still being written whenever a test looks."""
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


@pytest.fixture(scope="module")
def start(
    tiny_run: TinyRun, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts servers of the tiny run; what still runs in the end is killed."""
    started: list[Server] = []

    def start(*arguments: str, **options: Any) -> Server:
        options = {"cwd": tmp_path_factory.mktemp("serve"), "env": environment} | options
        started.append(Server(tiny_run.folder, *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.openai.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate(SECONDS)


@pytest.fixture(scope="module")
def server(start: Start) -> Iterator[Server]:
    """The server of all tests that leave it as it was; in the end it is idle and ends at once."""
    started = start()
    yield started
    output, errors = started.stop(signal.SIGINT)
    assert output == ""
    assert [line.split()[2] for line in errors.splitlines()[-2:]] == ["stopping", "stopped"]


@pytest.fixture(scope="module")
def strict(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that asks for a token, and lets a single text wait; its tests come in their order,
    the last one ends it."""
    file = tmp_path_factory.mktemp("strict") / "tokens"
    file.write_text(f"{TOKEN}\n")
    return start(f"--token-file={file}", "--name=mine", "--queue=1", "--checkpoint=best", key=TOKEN)


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun) -> Trained:
    return load_trained(tiny_run.folder)


@pytest.fixture(scope="module")
def served(trained: Trained) -> Served:
    return Served(trained, "tiny", Limits(max_prompt_tokens=64, body_bytes=1000))


class TestCompletions:
    """What OpenAI's client gets."""

    def test_is_what_the_engine_writes(self, server: Server, trained: Trained) -> None:
        settings = Settings(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, seed=5)
        request = Request(trained.prompt_tokens("The film"), 24, settings)
        (expected,) = generate(Engine(trained.model, trained.tokenizer, NUM_SLOTS), [request])
        fields = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 5}
        found = server.complete(prompt="The film", max_tokens=24, **fields)
        (choice,) = found.choices
        assert (choice.text, choice.finish_reason) == (expected.text, expected.finish_reason)
        assert choice.logprobs is None
        assert (found.object, found.model) == ("text_completion", server.name)
        assert found.id.startswith("cmpl-")
        assert found.usage.prompt_tokens == len(request.prompt)
        assert found.usage.total_tokens == len(request.prompt) + found.usage.completion_tokens
        as_tokens = server.complete(prompt=list(request.prompt), max_tokens=24, **fields)
        assert as_tokens.choices[0].text == expected.text

    def test_prompts_and_choices(self, server: Server) -> None:
        both = server.complete(prompt=["The", "A man"], n=2, seed=3, max_tokens=8)
        assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
        for number, (prompt, seed) in enumerate([("The", 3), ("The", 4), ("A man", 3)]):
            alone = server.complete(prompt=prompt, seed=seed, max_tokens=8)
            assert alone.choices[0].text == both.choices[number].text
        free = server.complete(prompt="The", n=2, max_tokens=16)
        assert free.choices[0].text != free.choices[1].text

    def test_stream_is_the_whole_in_pieces(self, server: Server) -> None:
        asked = {"prompt": "Caf\u00e9 \U0001f600", "n": 2, "seed": 1, "max_tokens": 12}
        asked |= {"logprobs": 2, "temperature": 1.5}
        whole = server.complete(**asked)
        options = {"include_usage": True}
        chunks = list(server.complete(**asked, stream=True, stream_options=options))
        *pieces, last = chunks
        assert (last.choices, last.usage) == ([], whole.usage)
        assert all(chunk.usage is None for chunk in pieces)
        assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
        assert len(pieces) == whole.usage.completion_tokens
        for choice in whole.choices:
            own = [c for chunk in pieces for c in chunk.choices if c.index == choice.index]
            assert "".join(c.text for c in own) == choice.text
            assert [c.finish_reason for c in own][-1] == choice.finish_reason
            assert not any(c.finish_reason for c in own[:-1])
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                told = [value for c in own for value in getattr(c.logprobs, name)]
                assert told == getattr(choice.logprobs, name)

    def test_stream_is_of_events(self, server: Server) -> None:
        body = json.dumps({"prompt": "The", "stream": True, "max_tokens": 3, "seed": 1}).encode()
        status, headers, data = server.fetch("/v1/completions", body, JSON)
        assert (status, headers.get_content_type()) == (200, "text/event-stream")
        events = data.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        for event in events[:-2]:
            assert event.startswith("data: {")
            assert "usage" not in json.loads(event.removeprefix("data: "))

    def test_logprobs(self, server: Server, trained: Trained) -> None:
        asked = {"prompt": "The", "seed": 1, "max_tokens": 12, "temperature": 0.5}
        (choice,) = server.complete(**asked, logprobs=3).choices
        found = choice.logprobs
        text = "".join(found.tokens)
        assert text.removesuffix("<|endoftext|>") == choice.text
        for token, offset in zip(found.tokens, found.text_offset, strict=True):
            assert text[offset:].startswith(token)
        for token, chance, top in zip(
            found.tokens, found.token_logprobs, found.top_logprobs, strict=True
        ):
            assert top[token] == chance <= 0
            assert len(top) in (3, 4)
            assert max(top.values()) <= 0
        (drawn,) = server.complete(**asked, logprobs=0).choices
        assert [list(top) for top in drawn.logprobs.top_logprobs] == [[t] for t in found.tokens]
        names = TokenNames(trained.tokenizer)
        assert names[trained.tokenizer.encode("\u00e9")[0]].startswith(("bytes:\\x", "\u00e9"))

    def test_stop_and_echo(self, server: Server) -> None:
        asked = {"prompt": "The", "seed": 1, "max_tokens": 12}
        text = server.complete(**asked).choices[0].text
        stop = text[4:6]
        (stopped,) = server.complete(**asked, stop=["no such text", stop]).choices
        assert (stopped.text, stopped.finish_reason) == (text[: text.index(stop)], "stop")
        streamed = list(server.complete(**asked, stop=stop, stream=True))
        assert "".join(chunk.choices[0].text for chunk in streamed) == stopped.text
        assert server.complete(**asked, echo=True).choices[0].text == "The" + text

    def test_does_not_depend_on_neighbours(self, server: Server) -> None:
        asked = [
            {"prompt": "The film " * number, "max_tokens": 40 - 3 * number, "seed": number}
            | {"temperature": 0.3 * number, "logprobs": 2, "stream": number % 2 == 0}
            for number in range(1, 9)
        ]

        def outcome(fields: dict[str, Any]) -> list[Any]:
            found = server.complete(**fields)
            chunks = list(found) if fields["stream"] else [found]
            chosen = [chunk.choices[0] for chunk in chunks]
            told = [vars(choice.logprobs) for choice in chosen]
            chances = [one for each in told for one in each["top_logprobs"]]
            return ["".join(choice.text for choice in chosen), chances]

        alone = [outcome(fields) for fields in asked]
        with ThreadPoolExecutor(8) as pool:
            for order in (asked, asked[::-1]):
                together = list(pool.map(outcome, order))
                assert (together if order is asked else together[::-1]) == alone

    def test_models(self, server: Server, tiny_run: TinyRun) -> None:
        client = server.openai
        (model,) = client.models.list().data
        assert model.id == server.name == default_name(tiny_run.folder)
        assert client.models.retrieve(model.id) == model
        assert model.template is None
        with pytest.raises(openai.NotFoundError, match="one model here"):
            client.models.retrieve("gpt-4")
        with pytest.raises(openai.NotFoundError, match="completions are at /v1/completions"):
            client.chat.completions.create(model=model.id, messages=[])
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="gpt-4", prompt="The")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match=r"temperature=-1\.0 must be 0 or above"):
            server.complete(prompt="The", temperature=-1)


class TestFields:
    """What is refused, and why."""

    @pytest.mark.parametrize(
        ("fields", "param", "word"),
        [
            ({}, "prompt", "prompt must be"),
            ({"prompt": []}, "prompt", "prompt must be"),
            ({"prompt": 7}, "prompt", "prompt must be"),
            ({"prompt": [[]]}, "prompt", "at least one"),
            ({"prompt": [512]}, "prompt", "from 0 to 511"),
            ({"prompt": [True]}, "prompt", "from 0 to 511"),
            ({"prompt": ["a", 3]}, "prompt", "Unicode text"),
            ({"prompt": "\ud800"}, "prompt", "Unicode text"),
            ({"prompt": [1] * 65}, "prompt", "65 tokens, and at most 64"),
            ({"max_tokens": 0}, "max_tokens", "from 1 to 4096"),
            ({"max_tokens": 4097}, "max_tokens", "from 1 to 4096"),
            ({"max_tokens": 1.5}, "max_tokens", "whole number"),
            ({"max_tokens": True}, "max_tokens", "whole number"),
            ({"temperature": "hot"}, "temperature", "must be a number"),
            ({"temperature": 10**400}, "temperature", "too large"),
            ({"top_p": 0}, "top_p", "top_p=0.0 must be above 0"),
            ({"min_p": 2}, "min_p", "between 0 (off) and 1"),
            ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
            ({"top_k": -1}, "top_k", "from 0"),
            ({"n": 129}, "n", "from 1 to 128"),
            ({"prompt": ["a"] * 65, "n": 2}, "n", "at most 128 texts"),
            ({"prompt": ["a"] * 200}, "n", "at most 128 texts"),
            ({"seed": -1}, "seed", "from 0 to 18446744073709551615"),
            ({"logprobs": 21}, "logprobs", "from 0 to 20"),
            ({"logprobs": 0, "echo": True}, "echo", "do not go together"),
            ({"stop": ""}, "stop", "each of 1 to 256"),
            ({"stop": ["a"] * 17}, "stop", "up to 16"),
            ({"stop": {"a": 1}}, "stop", "a string"),
            ({"stream": "yes"}, "stream", "true or false"),
            ({"stream_options": {"include_usage": True}}, "stream_options", "with stream"),
            ({"stream_options": {"x": 1}, "stream": True}, "stream_options", "include_usage"),
            ({"best_of": 2}, "best_of", "not supported"),
            ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
            ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
            ({"suffix": "b"}, "suffix", "not supported"),
            ({"model": 3}, "model", "a string"),
            ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ],
        ids=str,
    )
    def test_each_is_named(
        self, served: Served, fields: dict[str, Any], param: str, word: str
    ) -> None:
        body = {} if fields == {} else {"prompt": "The"} | fields
        with pytest.raises(Refused) as caught:
            read_completion(json.dumps(body).encode(), served)
        assert (caught.value.status, caught.value.param) == (400, param)
        assert word in str(caught.value)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b'"The"', b"\xff\xfe", b"[" * 100_000, b'{"seed": NaN}', b"9" * 5000],
        ids=lambda body: repr(body[:8]),
    )
    def test_bodies_that_are_no_object(self, served: Served, body: bytes) -> None:
        with pytest.raises(Refused, match="the body") as caught:
            read_completion(body, served)
        assert caught.value.status == 400

    def test_all_problems_at_once(self, served: Served) -> None:
        body = b'{"prompt": "a", "n": 0, "top_p": 2, "min_p": -1, "echo": 1}'
        with pytest.raises(Refused, match=r"n must.*top_p=2\.0.*min_p=-1\.0.*echo must"):
            read_completion(body, served)

    def test_fields_of_openai_that_do_no_harm(self, served: Served) -> None:
        harmless = {"best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "suffix": None}
        harmless |= {"logit_bias": {}, "user": "me", "stop": None, "stream_options": None}
        asked = read_completion(json.dumps({"prompt": "The"} | harmless).encode(), served)
        (request,) = asked.requests
        assert request.settings == Settings(seed=request.settings.seed)
        assert (request.max_new_tokens, request.num_top_logprobs) == (16, None)
        assert request.prompt == served.trained.prompt_tokens("The")


class TestHttp:
    """What goes wrong before a body is read, and who may ask."""

    @pytest.mark.parametrize(
        ("path", "method", "body", "headers", "status"),
        [
            ("/nowhere", "GET", None, {}, 404),
            ("/v1/completions", "GET", None, {}, 405),
            ("/health", "POST", b"{}", JSON, 405),
            ("/v1/completions", "POST", b"prompt=The", {}, 415),
            ("/v1/completions", "POST", b"{", JSON, 400),
            ("/v1/completions", "POST", b" " * 3_000_000, JSON, 413),
            ("/v1/completions", "POST", b"{}", JSON | {"Host": "rebound.example:80"}, 403),
            ("/v1/models", "GET", None, {"Sec-Fetch-Site": "cross-site"}, 403),
            ("/v1/models", "GET", None, {"Sec-Fetch-Site": "same-origin", "Host": "[::1]:9"}, 200),
            ("/", "GET", None, {"Sec-Fetch-Site": "cross-site", "Host": "localhost"}, 200),
        ],
    )
    def test_status(
        self,
        server: Server,
        path: str,
        method: str,
        body: bytes | None,
        headers: dict[str, str],
        status: int,
    ) -> None:
        found, answered, data = server.fetch(path, body, headers, method)
        assert found == status
        assert "Access-Control-Allow-Origin" not in answered
        if status >= 400:
            error = json.loads(data)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]

    def test_clients_that_misbehave(self, server: Server) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + (
            b"Content-Type: application/json\r\n"
        )
        for data, is_answered in (
            (b"\x16\x03\x01\x02\x00", True),  # TLS
            (b"GET / HTTP/1.1\r\n\0: x\r\n\r\n", True),
            (head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", True),
            (head + b'Content-Length: 50\r\n\r\n{"prompt"', False),  # and gone
            (head + b"Content-Length: 5\r\n\r\n{}   GET / HTTP/1.1\r\n\r\n", True),
        ):
            with socket.create_connection(("127.0.0.1", server.port), SECONDS) as raw:
                raw.sendall(data)
                if is_answered:
                    assert raw.recv(12)[8:] == b" 400"
        assert server.health()["status"] == "ok"

    def test_tokens(self, strict: Server) -> None:
        assert strict.openai.models.list().data[0].id == "mine"
        assert strict.complete(prompt="The").choices
        with strict.client(TOKEN + "r") as client, pytest.raises(openai.AuthenticationError):
            client.completions.create(model="mine", prompt="The")
        assert strict.fetch("/metrics")[0] == 401
        assert strict.fetch("/v1/models", headers={"Host": "lab.example"})[0] == 401
        assert strict.fetch(f"/metrics?token={TOKEN}", headers={"Host": "lab.example"})[0] == 200
        assert [strict.fetch(path)[0] for path in ("/", "/health")] == [200, 200]

    def test_metrics(self, server: Server) -> None:
        before = server.metric("babygpt_serve_completion_tokens_total")
        server.complete(prompt="The", max_tokens=5, **{"temperature": 0.0})
        text = server.fetch("/metrics")[2].decode()
        assert server.metric("babygpt_serve_completion_tokens_total") == before + 5
        assert server.metric("babygpt_serve_slots") == NUM_SLOTS
        assert 'babygpt_serve_requests_total{status="200"}' in text
        assert text.count("# TYPE") == text.count("# HELP")

    def test_histogram(self) -> None:
        histogram = Histogram((1.0, 2.0))
        for value in (0.5, 1.0, 1.5, 9.0):
            histogram.observe(value)
        assert list(histogram.lines("x", "What it is.")) == [
            "# HELP babygpt_serve_x What it is.",
            "# TYPE babygpt_serve_x histogram",
            'babygpt_serve_x_bucket{le="1.0"} 2',
            'babygpt_serve_x_bucket{le="2.0"} 3',
            'babygpt_serve_x_bucket{le="+Inf"} 4',
            "babygpt_serve_x_sum 12",
            "babygpt_serve_x_count 4",
        ]


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


class TestCommand:
    """Errors, one line each."""

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ([], "RUN"),
            (["run", "--port", "65536"], "--port"),
            (["run", "--slots", "0"], "--slots"),
            (["run", "--queue", "-1"], "--queue"),
            (["run", "--max-tokens", "0"], "--max-tokens"),
            (["run", "--max-prompt-tokens", "0"], "--max-prompt-tokens"),
            (["run", "--precision", "fp8"], "--precision"),
            (["run", "--name", ""], "--name"),
            (["run", "--host", "0.0.0.0"], "add --token-file F, or --insecure to insist"),
            (["nowhere"], "nowhere"),
            (["run", "--token-file", "absent"], "error: --token-file absent cannot be read"),
        ],
        ids=str,
    )
    def test_usage(
        self, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1 + ("absent" not in arguments)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert word in captured.err

    def test_a_port_that_is_taken(
        self, server: Server, tiny_run: TinyRun, environment: dict[str, str], tmp_path: Path
    ) -> None:
        process = EXPERIMENTS.start(
            "babygpt_exp.serve",
            *(str(tiny_run.folder), f"--port={server.port}"),
            cwd=tmp_path,
            env=environment,
            text=True,
        )
        output, errors = process.communicate(SECONDS)
        assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
        assert "Address already in use; choose another --port" in errors
