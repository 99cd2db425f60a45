"""Every limit of a message, an opening and a request, and what is said beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import ServerProcess, Socket, ask, talk

from streamer.cli import main
from streamer.errors import RequestError
from streamer.messages import parse_flat

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"tokenizer","json":"{\\"a\\": [1, \\u00e9]}"}',
        ' {"op" : "tokenizer" ,\n"id": -7, "x": null, "y":true}\r\n'.strip(),
        json.dumps({"op": "tokenizer", "json": json.dumps({"vocab": {"\u6c34\n": [1]}})}),
    ],
)
def test_long_messages_are_read_as_json_reads_them(text: str) -> None:
    assert parse_flat(text) == json.loads(text)


NOT_FLAT = ["", "{", "{}", "[]", '{"a":[]}', '{"a":{}}', '{"a":1.5}', '{"a":1}x', '{"a":"b}']


NOT_FLAT += ['{"a" 1}', '{"a":1,}', '{"a":"\t"}', "{a:1}", '{"a":' + "9" * 5000 + "}"]


@pytest.mark.parametrize("text", NOT_FLAT)
def test_long_messages_that_are_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_flat(text)
    assert caught.value.code == "bad_request"


@dataclass(frozen=True)
class Row:
    """A limit that one message is beyond."""

    message: str
    """What is sent."""
    code: str
    """The error's code."""
    field: str = ""
    """The field that is to blame."""


def page_request(**changes: Any) -> str:
    message: dict[str, Any] = {"op": "text", "split": "train", "fraction": 0.0, "salt": ""}
    return json.dumps(message | {"max_documents": 1, "max_bytes": 1} | changes)


ERRORS = {
    "control_bytes": Row('{"op":"info","x":"' + "x" * 2000 + '"}', "limit"),
    "tokenizer_bytes": Row('{"op":"tokenizer","json":"' + "x" * 4001 + '"}', "limit", "json"),
    "no JSON": Row("{", "bad_request"),
    "deep JSON": Row("[" * 1999, "bad_request"),
    "deep JSON in a tokenizer": Row("[" * 7000, "bad_request"),
    "many lists in a tokenizer": Row('{"op":"tokenizer","json":[' + "[]," * 2000, "bad_request"),
    "credit of one message": Row(
        '{"op":"credit","stream":1,"batches":65}', "bad_request", "batches"
    ),
    "documents of a page": Row(page_request(max_documents=10_001), "bad_request", "max_documents"),
    "bytes of a page": Row(page_request(max_bytes=(8 << 20) + 1), "bad_request", "max_bytes"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_message_beyond_a_limit(small: ServerProcess, name: str) -> None:
    async def speech(socket: Socket) -> None:
        row = ERRORS[name]
        reply = await ask(socket, row.message)
        assert (reply["op"], reply["code"], reply["field"]) == ("error", row.code, row.field)
        assert reply["retry"] is False
        assert (await ask(socket, {"op": "info"}))["limits"]["control_bytes"] == 2000

    talk(small.url, speech)


OPENINGS = {
    "batch": Row('{"batch":65537}', "bad_request", "batch"),
    "world": Row('{"world":65537}', "bad_request", "world"),
    "credit": Row('{"credit":65}', "bad_request", "credit"),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_an_opening_beyond_a_limit(
    server: ServerProcess, opening: dict[str, Any], name: str
) -> None:
    async def speech(socket: Socket) -> None:
        row = OPENINGS[name]
        reply = await ask(socket, opening | json.loads(row.message))
        assert (reply["code"], reply["field"]) == (row.code, row.field)

    talk(server.url, speech)


def test_bytes_of_a_batch(server: ServerProcess, opening: dict[str, Any]) -> None:
    async def speech(socket: Socket) -> None:
        plan = opening["plan"] | {"sequence_length": 1 << 12}
        reply = await ask(socket, opening | {"plan": plan, "batch": 1 << 14})
        assert (reply["code"], reply["field"]) == ("limit", "batch")

    talk(server.url, speech)


def test_streams_and_credit_in_sum(server: ServerProcess, opening: dict[str, Any]) -> None:
    async def speech(socket: Socket) -> None:
        for stream in range(16):
            reply = await ask(socket, opening | {"stream": stream, "credit": 0})
            assert reply["op"] == "opened"
        reply = await ask(socket, opening | {"stream": 16})
        assert (reply["code"], reply["field"], reply["stream"]) == ("limit", "stream", 16)
        await socket.send_json({"op": "close", "stream": 3})
        assert (await ask(socket, opening | {"stream": 16, "credit": 0}))["op"] == "opened"
        await socket.send_json({"op": "open"} | opening | {"stream": 3, "credit": 64, "batch": 1})

    talk(server.url, speech)

    async def greedy(socket: Socket) -> None:
        assert (await ask(socket, opening | {"stream": 1, "credit": 0}))["op"] == "opened"
        await socket.send_json({"op": "credit", "stream": 1, "batches": 64})
        await socket.send_json({"op": "credit", "stream": 1, "batches": 64})
        while isinstance(message := (await socket.receive()).data, bytes):
            pass
        reply = json.loads(message)
        assert (reply["code"], reply["field"]) == ("limit", "batches")

    talk(server.url, greedy)


def test_messages_to_streams_that_are_not_open(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        for _ in range(65):
            await socket.send_json({"op": "credit", "stream": 5, "batches": 1})
        reply = await ask(socket, {"op": "info"})
        assert (reply["code"], reply["field"]) == ("bad_request", "stream")

    talk(server.url, speech)


def test_requests_at_once(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        for number in range(200):
            await socket.send_json({"op": "info", "id": number})
        while (reply := json.loads(await socket.receive_str()))["op"] == "info":
            pass
        assert (reply["code"], reply["retry"]) == ("busy", True)

    talk(server.url, speech)


def test_a_document_that_no_message_holds(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "x" * (57 << 20)}) + "\n")
    server = start_server(tmp_path / "long.jsonl")

    async def speech(socket: Socket) -> None:
        reply = await ask(socket, page_request())
        assert (reply["code"], reply["field"]) == ("limit", "max_bytes")

    talk(server.url, speech)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("conections=1", "did you mean connections?"),
        ("connections=1.5", "connections is a whole number"),
        ("connections=0", "connections must be above 0"),
        ("send_seconds=nan", "send_seconds must be above 0"),
        ("errors", "errors is a whole number"),
    ],
)
def test_limits_that_are_none(
    setting: str, message: str, corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(corpus), "--limit", setting]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
