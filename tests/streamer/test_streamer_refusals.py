"""Requests that must be refused, by the name of the field that is to blame."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamer_harness import ServerProcess, Socket, ask, talk

BAD_VALUES: list[Any] = [True, -1, 1.5, 10**18, "8", None, [], {}]
MISSING = object()


@pytest.mark.parametrize("field", ["stream", "batch", "rank", "world", "credit", "epochs", "split"])
def test_every_bad_field_is_named(
    server: ServerProcess, opening: dict[str, Any], field: str
) -> None:
    async def speech(socket: Socket) -> None:
        for bad in [*BAD_VALUES, MISSING]:
            if field == "epochs" and (bad is None or bad is MISSING):
                continue
            message = {k: v for k, v in (opening | {field: bad}).items() if v is not MISSING}
            reply = await ask(socket, message)
            assert (reply["op"], reply["code"], reply["field"]) == ("error", "bad_request", field)
            assert reply["retry"] is False
            assert "\n" not in reply["message"]
        assert (await ask(socket, {"op": "info", "id": 9}))["id"] == 9

    talk(server.url, speech)


PLAN_FIELDS: dict[str, list[Any]] = {
    "plan": [7, None, "x", []],
    "plan.version": ["2", True, -1],
    "plan.sources": [7, "x"],
    "plan.sources.0": [[7]],
    "plan.tokenizer": [None, 7],
    "plan.tokenizer.hash": [None, "x", "A" * 64],
    "plan.tokenizer.eot_id": [-1, 400, 10**9, None, "0", True],
    "plan.tokenizer.vocab_size": [0, "400", 2**40],
    "plan.sequence_length": [0, -1, 1.5, 10**9, "64", None, True],
    "plan.validation": [None, 0.1],
    "plan.validation.fraction": [-0.1, 1.1, None, "0.1", True, 10**400],
    "plan.validation.salt": [None, 7, "x" * 65, "\ud800"],
    "plan.shuffle": [7, "x", []],
    "plan.shuffle.shards": [0, 10**9, None],
    "plan.shuffle.seed": [-1, None, 1.5],
    "plan.surprise": [1],
}


@pytest.mark.parametrize("path", PLAN_FIELDS)
def test_every_bad_plan_field_is_named(
    server: ServerProcess, opening: dict[str, Any], path: str
) -> None:
    async def speech(socket: Socket) -> None:
        for bad in PLAN_FIELDS[path]:
            message = json.loads(json.dumps(opening))
            if path == "plan.sources.0":
                message["plan"]["sources"] = bad
            else:
                *parents, last = path.split(".")
                place = message
                for parent in parents:
                    place = place[parent]
                place[last] = bad
            reply = await ask(socket, message)
            assert (reply["code"], reply["field"], reply["stream"]) == ("bad_request", path, 3)

    talk(server.url, speech)


def test_other_refusals(server: ServerProcess, opening: dict[str, Any]) -> None:
    plan, position = opening["plan"], {"epoch": 0, "group": 0, "block": 0}
    tokenizer = plan["tokenizer"]
    cases = [
        ({"batch": 4, "world": 3}, "bad_request", "batch"),
        ({"plan": plan | {"version": 1}}, "plan_mismatch", "version"),
        ({"plan": plan | {"sources": []}}, "plan_mismatch", "sources"),
        (
            {"plan": plan | {"tokenizer": tokenizer | {"hash": "0" * 64}}},
            "unknown_tokenizer",
            "plan.tokenizer.hash",
        ),
        (
            {"plan": plan | {"tokenizer": tokenizer | {"vocab_size": 399}}},
            "plan_mismatch",
            "tokenizer.vocab_size",
        ),
        (
            {"plan": plan | {"sequence_length": 1 << 20}, "batch": 65536},
            "limit",
            "batch",
        ),
        ({"cursor": {"slot": 0, "sources": []}}, "bad_request", "cursor.sources"),
        (
            {"cursor": {"slot": 0, "sources": [position | {"group": 4}]}},
            "out_of_range",
            "cursor.sources.0.group",
        ),
        (
            {"cursor": {"slot": 0, "sources": [position | {"block": 10**6}]}},
            "out_of_range",
            "cursor.sources.0.block",
        ),
        ({"surprise": 1}, "bad_request", "surprise"),
    ]

    async def speech(socket: Socket) -> None:
        for changes, code, field in cases:
            reply = await ask(socket, opening | changes)
            assert (reply["code"], reply["field"]) == (code, field)

    talk(server.url, speech)


def test_a_full_plan_of_other_data_names_the_difference(
    server: ServerProcess, opening: dict[str, Any]
) -> None:
    async def speech(socket: Socket) -> None:
        full = (await ask(socket, opening))["plan"]
        await socket.receive_bytes()
        for key, other in (("fingerprint", "0" * 64), ("weight", 2.0), ("column", "body")):
            sources = [full["sources"][0] | {key: other}]
            reply = await ask(socket, opening | {"stream": 4, "plan": full | {"sources": sources}})
            assert (reply["code"], reply["field"]) == ("plan_mismatch", f"sources.0.{key}")
        renamed = full | {"sources": [full["sources"][0] | {"name": "moved"}]}
        assert (await ask(socket, opening | {"stream": 5, "plan": renamed}))["op"] == "opened"

    talk(server.url, speech)


@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        "7",
        "[]",
        "{}",
        '{"op":"surprise"}',
        '{"op":7}',
        '{"op":"info","\\ud800":1}',
        '{"op":"info","id":"x"}',
        '{"op":"info","x":' + "[" * 5000 + "]" * 5000 + "}",
        '{"op":"tokenizer"}',
        '{"op":"tokenizer","hash":"x"}',
        '{"op":"tokenizer","json":"x"}',
        '{"op":"text","split":"test","fraction":0.1,"salt":"","max_documents":1,"max_bytes":1}',
        '{"op":"text","split":"train","fraction":NaN,"salt":"","max_documents":1,"max_bytes":1}',
        '{"op":"text","split":"train","fraction":0.1,"salt":"","max_documents":0,"max_bytes":1}',
        '{"op":"credit","stream":1}',
        '{"op":"credit","stream":1,"batches":10000}',
        '{"op":"close"}',
        '{"op":"info","x":"' + "x" * 70_000 + '"}',
    ],
)
def test_nonsense_is_refused_and_the_connection_lives(server: ServerProcess, message: str) -> None:
    async def speech(socket: Socket) -> None:
        reply = await ask(socket, message)
        assert reply["op"] == "error"
        assert reply["code"] in ("bad_request", "bad_tokenizer", "limit")
        assert (await ask(socket, {"op": "info"}))["op"] == "info"

    talk(server.url, speech)
