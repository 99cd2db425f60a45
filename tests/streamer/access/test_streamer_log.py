"""The server's log: what stands in it, and that a flood does not fill it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
from streamer_harness import Socket, ask, talk
from token_servers import TOKEN, Start

from streamer.client import StreamClient


def test_a_log_of_json(start: Start, token_file: Path) -> None:
    server = start("--log-format=json", f"--token-file={token_file}")

    async def speech(socket: Socket) -> None:
        assert (await ask(socket, {"op": "nonsense"}))["op"] == "error"

    talk(f"{server.url}?token={TOKEN}", speech)
    server.wait_for("disconnected")
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    names = " ".join(line["event"] for line in lines)
    assert names == "source listening connected error disconnected stopping stopped"
    assert all({"ts", "level", "event"} <= line.keys() for line in lines)
    error, disconnected = lines[3], lines[4]
    assert (error["level"], error["code"], error["field"]) == ("info", "bad_request", "op")
    assert disconnected["peer"] == error["peer"]
    assert (disconnected["protocol"], disconnected["code"]) == ("v2", 1000)
    assert TOKEN not in server.log.read_text()


def test_the_log_of_a_stream(start: Start, plan: dict[str, Any], tokenizer_json: str) -> None:
    server = start("--log-format=json")
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3)
        for _ in range(20):
            next(stream)
    server.wait_for("stream_ended")
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (opened,) = (line for line in lines if line["event"] == "stream_opened")
    (ended,) = (line for line in lines if line["event"] == "stream_ended")
    assert (opened["plan"], opened["split"], opened["batch"]) == (stream.plan_id, "train", 3)
    assert ended["peer"] == opened["peer"]
    assert ended["tokens"] > 0


def test_a_flood_of_equal_lines_is_counted(start: Start) -> None:
    server = start("--limit=errors=1000")

    async def speech(socket: aiohttp.ClientWebSocketResponse) -> None:
        for _ in range(300):
            await socket.send_str("{")
        for _ in range(300):
            await socket.receive_str()

    talk(server.url, speech)
    server.stop()
    lines = server.log.read_text().splitlines()
    assert sum("suppressed of=error lines=" in line for line in lines) >= 1
    assert len(lines) < 150
