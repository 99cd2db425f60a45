"""`python -m babygpt_exp.serve`: what OpenAI's own client gets, over HTTP, from the command."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from experiment_harness import EXPERIMENTS, SECONDS, TinyRun
from serve_harness import JSON, NUM_SLOTS, TOKEN, Server

from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.sampling import Settings
from babygpt_exp.serving.answers import TokenNames
from babygpt_exp.serving.cli import default_name, main
from babygpt_exp.serving.metrics import Histogram
from babygpt_exp.trained import Trained


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
