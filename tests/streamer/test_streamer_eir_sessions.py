"""Sessions of EIR's protocol: they are bounded, they wait for what is slow, they are forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from streamer_eir_harness import (
    HANDSHAKE,
    Client,
    Server,
    hold_out,
    read_epoch,
    serve,
    write_small,
)

from streamer.cache import TokenCache
from streamer.eir import session as session_module
from streamer.eir.session import Sessions, Timing, Wish
from streamer.library import Library
from streamer.sources.spec import SourceSpec


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path)


def test_the_handshake_waits_for_a_slow_source_so_that_what_follows_is_quick(
    small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        arrived = asyncio.Event()
        documents = server.library.documents

        async def waiting(listing: Any, index: int) -> list[str]:
            await arrived.wait()
            return await documents(listing, index)

        server.library.documents = waiting  # type: ignore[method-assign]
        hasty = Client(await http.ws_connect(server.url))
        await hasty.send(HANDSHAKE)
        while not server.num_connections:
            await asyncio.sleep(0.01)
        await hasty.close()
        while server.num_connections:
            await asyncio.sleep(0.01)
        coming = asyncio.create_task(Client.worker(http, server.url))
        await asyncio.sleep(0.2)
        assert not coming.done()
        arrived.set()
        assert len(await (await coming).read_all(8)) == 20

    serve(small, tmp_path, speech)


def test_sessions_are_bounded_and_idle_ones_make_room(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 2)

    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        url = f"{server.url}?session="
        kept = await Client.dial(http, url + "a")
        await (await Client.dial(http, url + "b")).close()
        held = await Client.dial(http, url + "c")
        client = Client(await http.ws_connect(url + "d"))
        assert (await client.ask(HANDSHAKE))["type"] == "error"
        await client.expect_close(1013)
        await kept.close()
        await (await Client.dial(http, url + "d")).close()
        assert (await held.ask({"type": "status"}))["type"] == "status"

    serve(small, tmp_path, speech)


def test_validation_ids_are_bounded_in_one_session_and_in_all(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_VALIDATION_IDS", 6)
    monkeypatch.setattr(session_module, "MAX_ALL_VALIDATION_IDS", 10)

    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        ids = list(await read_epoch(http, server.url))
        keepers = [await Client.dial(http, f"{server.url}?session={name}") for name in "ab"]
        replies = [
            await hold_out(http, f"{server.url}?session={name}", ids[:count])
            for name, count in (("a", 7), ("a", 6), ("b", 6), ("b", 4), ("c", 1))
        ]
        kinds = [reply["type"] for reply in replies]
        confirmed = "validationIdsConfirmation"
        assert kinds == ["error", confirmed, "error", confirmed, "error"]
        await keepers[0].close()
        assert (await hold_out(http, f"{server.url}?session=c", ids[:1]))["type"] == confirmed

    serve(small, tmp_path, speech)


def test_a_session_that_nobody_used_for_long_is_forgotten(small: Path, tmp_path: Path) -> None:
    async def run() -> None:
        library = Library([SourceSpec(str(small))], TokenCache(tmp_path / "cache"))
        sessions = Sessions(Timing(idle_seconds=-1))
        old = sessions.attach(Wish("old"), library, "connection")
        sessions.attach(Wish("new"), library, "other")
        assert sessions.attach(Wish("old"), library, "connection") is old
        sessions.detach(old, "connection")
        sessions.attach(Wish("newer"), library, "another")
        assert sessions.attach(Wish("old"), library, "connection") is not old
        library.close()

    asyncio.run(run())
