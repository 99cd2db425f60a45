"""docs/protocol.md is enough: its examples are what a server says, and a client made from it alone
gets the bytes that ours gets. Of `streamer` only that client of ours is imported.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from streamer_harness import REPOSITORY, ServerProcess, Socket, make_plan, talk
from tokenizers import Tokenizer

from streamer.client import StreamClient  # what the client below is compared with

PAGE = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r'^```(?:json|text) title="([^"]+)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE
)
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def blocks(*titles: str) -> list[tuple[str, str]]:
    """The page's examples with one of these titles, in order."""
    return [(title, text) for title, text in BLOCKS if title in titles]


def hex_bytes(dump: str) -> bytes:
    """What a hex dump shows: offset, bytes, text, with two blanks between."""
    return b"".join(bytes.fromhex(line.split("  ")[1]) for line in dump.splitlines())


def frames(message: bytes) -> Iterator[tuple[dict[str, Any], bytes, bytes]]:
    """Header, tokens and all bytes of each frame of a message, checked."""
    while message:
        (size,) = struct.unpack_from("<I", message)
        text = message[4 : 4 + size]
        header = json.loads(text)
        rows, width = header["shape"]
        end = 4 + size + rows * width * np.dtype(header["dtype"]).itemsize
        tokens = message[4 + size : end]
        covered = text[: text.rindex(b',"crc32":')]
        assert (4 + size) % 8 == 0
        assert zlib.crc32(covered + tokens) == header["crc32"]
        yield header, tokens, message[:end]
        message = message[end:]


async def answers(socket: Socket) -> AsyncIterator[Any]:
    """JSON objects and frames, one by one, but for mere signs of life."""
    while True:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            for frame in frames(message.data):
                yield frame
        else:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            reply = json.loads(message.data)
            if reply["op"] != "preparing":
                yield reply


def test_the_examples_are_what_a_server_says(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    ((_, corpus),) = blocks("example.jsonl")
    (tmp_path / "example.jsonl").write_text(corpus)
    server = start_server(tmp_path / "example.jsonl")
    conversation = blocks("client", "server", "server: binary")
    assert len(conversation) >= 16

    async def speech(socket: Socket) -> None:
        received = answers(socket)
        for title, text in conversation:
            if title == "client":
                await socket.send_str(text)
                continue
            answer = await asyncio.wait_for(anext(received), 10)
            if title == "server: binary":
                assert answer[2] == hex_bytes(text)
                continue
            expected = json.loads(text)
            if expected["op"] == "info":
                expected["version"] = answer["version"]
            assert answer == expected
        ((_, close),) = blocks("close")  # of the stream, which is over: not worth a word
        for message in (close, '{"op": "info"}'):
            await socket.send_str(message)
        assert (await anext(received))["op"] == "info"
        server.signal(signal.SIGTERM)
        ((_, bye),) = blocks("bye")
        assert await anext(received) == json.loads(bye)
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1012

    talk(server.url, speech)


def test_the_hashes_are_those_of_the_page() -> None:
    ((_, canonical),) = blocks("canonical")
    (opened,) = [json.loads(text) for _, text in blocks("server") if '"opened"' in text]
    digest = blake2b(canonical.rstrip("\n").encode(), digest_size=16).hexdigest()
    assert digest == opened["plan_id"]
    assert f"`{digest}`" in PAGE
    for source in opened["plan"]["sources"]:
        del source["name"]
    assert json.loads(canonical) == opened["plan"]
    uploads = [json.loads(text) for _, text in blocks("client") if '"json"' in text]
    digests = [json.loads(text)["hash"] for _, text in blocks("server") if '"known": true' in text]
    assert [sha256(upload["json"].encode()).hexdigest() for upload in uploads] == digests
    table = re.findall(r"^\| `([\w ]+)` \| `([0-9a-f]{16})` \| (0\.\d{4}) \|$", PAGE, re.MULTILINE)
    assert len(table) == 3
    for document, hexadecimal, share in table:
        made = blake2b(document.encode(), digest_size=8, key=b"pepper")
        assert made.hexdigest() == hexadecimal
        assert f"{int.from_bytes(made.digest(), 'little') / 2**64:.4f}" == share


def splitmix64(x: int) -> int:
    z = (x + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def make_key(seed: int, epoch: int, what: int, source: int) -> int:
    return splitmix64(splitmix64(splitmix64(seed) ^ epoch ^ (source << 48)) ^ what)


def permutation(key: int, size: int) -> list[int]:
    return sorted(range(size), key=lambda i: splitmix64((key + i * GOLDEN) & MASK))


def mix(slot: int, weights: list[float]) -> int:
    place = slot * GOLDEN & MASK
    for source in range(len(weights) - 1):
        share = sum(weights[: source + 1]) / sum(weights) * 2.0**64
        if min(int(share), 2**64 - 2**11) > place:
            return source
    return len(weights) - 1


def test_order_and_mix_are_those_of_the_page() -> None:
    cells = dict(re.findall(r"^\| `((?:splitmix|key|perm)[^`]*)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert len(cells) == 5
    names = {"splitmix64": splitmix64, "key": make_key, "permutation": permutation}
    for expression, shown in cells.items():
        value = eval(expression, names)
        made = " ".join(map(str, value)) if isinstance(value, list) else f"`{value:#x}`"
        assert made == shown, expression
    rows = re.findall(r"^\| ([\d, ]+) \| ((?:\d )+\d) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 2
    for weights, sources in rows:
        found = [mix(slot, json.loads(f"[{weights}]")) for slot in range(len(sources.split()))]
        assert " ".join(map(str, found)) == sources


class SpecClient:
    """A client of one stream, by the page: buffers `credit` batches and gives one for each."""

    def __init__(self, url: str, opening: dict[str, Any], tokenizer_json: str) -> None:
        self.url = url
        self.opening = {"op": "open", "stream": 9, "cursor": None, **opening}
        self.tokenizer_json = tokenizer_json

    async def read(self, most: int) -> list[tuple[dict[str, Any], bytes]]:
        """Up to `most` batches from where the last call stopped, over a new connection."""
        found: list[tuple[dict[str, Any], bytes]] = []

        async def speech(socket: Socket) -> None:
            received = answers(socket)
            await socket.send_json(self.opening)
            reply = await anext(received)
            if reply.get("code") == "unknown_tokenizer":
                await socket.send_json({"op": "tokenizer", "json": self.tokenizer_json})
                assert (await anext(received))["known"]
                await socket.send_json(self.opening)
                reply = await anext(received)
            assert reply["op"] == "opened", reply
            expected = self.opening["cursor"] or reply["cursor"]
            assert reply["cursor"] == expected
            self.opening["plan"] = reply["plan"]
            while len(found) < most:
                reply = await anext(received)
                if isinstance(reply, dict):
                    assert reply == {"op": "end", "stream": 9, "next": expected}
                    return
                header, tokens, _ = reply
                assert (header["stream"], header["start"]) == (9, expected)
                self.opening["cursor"] = expected = header["next"]
                found.append((header, tokens))
                await socket.send_json({"op": "credit", "stream": 9, "batches": 1})

        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession() as session,
            session.ws_connect(
                self.url, protocols=["babygpt.stream.v2"], max_msg_size=(64 << 20) + 1024
            ) as socket,
        ):
            assert socket.protocol == "babygpt.stream.v2"
            await speech(socket)
        return found


@pytest.mark.parametrize("rank", [0, 1])
def test_a_client_made_from_the_page_gets_what_ours_gets(
    rank: int, server: ServerProcess, client: StreamClient, tokenizer_json: str
) -> None:
    opening = {"plan": make_plan(tokenizer_json), "split": "train", "batch": 6, "epochs": 1}
    opening |= {"rank": rank, "world": 2}
    client.upload_tokenizer(tokenizer_json)
    ours = list(client.open(**opening))
    other = SpecClient(server.url, opening | {"credit": 3}, tokenizer_json)
    theirs: list[tuple[dict[str, Any], bytes]] = []
    for most in (1, 7, 10_000):  # each time over a new connection, at the cursor of the last
        theirs += asyncio.run(other.read(most))
    assert len(theirs) == len(ours) > 20
    for batch, (header, tokens) in zip(ours, theirs, strict=True):
        assert (header["start"], header["next"]) == (batch.start, batch.next)
        assert tokens == batch.tokens.tobytes()
        lengths = [header["shape"][1]] * header["shape"][0]
        for row, length in header["short"]:
            lengths[row] = length
        assert lengths == batch.lengths.tolist()


class Model:
    """A source's blocks, epoch after epoch, by the page's rules."""

    def __init__(self, shards: list[list[str]], plan: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.plan = plan
        self.shards = [self._blocks(shard, tokenizer) for shard in shards]

    def _blocks(self, shard: list[str], tokenizer: Tokenizer) -> list[list[int]]:
        eot, length = self.plan["tokenizer"]["eot_id"], self.plan["sequence_length"]
        salt = self.plan["validation"]["salt"].encode()
        tokens = [eot]
        for document in shard:
            digest = blake2b(document.encode(), digest_size=8, key=salt).digest()
            if int.from_bytes(digest, "little") >= self.plan["validation"]["fraction"] * 2.0**64:
                tokens += [*tokenizer.encode(document, add_special_tokens=False).ids, eot]
        return [tokens[i : i + length + 1] for i in range(0, len(tokens) - 1, length)]

    def walk(self, source: int) -> Iterator[list[int]]:
        size, seed = self.plan["shuffle"]["shards"], self.plan["shuffle"]["seed"]
        for epoch in range(1000):
            order = permutation(make_key(seed, epoch, 0, source), len(self.shards))
            for group, first in enumerate(range(0, len(order), size)):
                here = [block for at in order[first : first + size] for block in self.shards[at]]
                key = make_key(seed, epoch, group + 1, source)
                yield from (here[i] for i in permutation(key, len(here)))


def test_the_rules_of_the_page_foretell_the_tokens_of_a_mix(
    start_server: Callable[..., ServerProcess],
    corpus: Path,
    documents: list[str],
    tokenizer_json: str,
    tmp_path: Path,
) -> None:
    lines = [document for document in documents if len(document) > 500][:40]
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    server = start_server(f"{corpus}=2.5", "--source", f"{more}=1")
    plan, tokenizer = make_plan(tokenizer_json), Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    row_groups = [documents[at : at + 50] for at in range(0, 130, 50)]
    row_groups[-1] = documents[100:130]
    row_groups += [documents[at : at + 56] for at in range(130, len(documents), 56)]
    models = [Model(row_groups, plan, tokenizer), Model([lines], plan, tokenizer)]
    walks = [model.walk(source) for source, model in enumerate(models)]
    opening = {"plan": plan, "split": "train", "batch": 50, "rank": 0, "world": 1, "credit": 8}
    batches = asyncio.run(SpecClient(server.url, opening, tokenizer_json).read(40))
    slot = 0
    for header, tokens in batches:
        rows = np.frombuffer(tokens, header["dtype"]).reshape(header["shape"]).tolist()
        short = dict(header["short"])
        for number, row in enumerate(rows):
            assert row[: short.get(number, len(row))] == next(walks[mix(slot, [2.5, 1.0])]), slot
            slot += 1
    assert slot == 2000
