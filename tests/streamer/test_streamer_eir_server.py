"""What EIR's client gets from us: everything once an epoch, and nothing that is held out."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamer_eir_harness import (
    PATIENT,
    Client,
    Server,
    data_request,
    hold_out,
    merge,
    put_together,
    read_epoch,
    serve,
    set_up,
    with_words,
    write_small,
)

from streamer.eir.corpus import cut
from streamer.eir.session import Timing


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path)


def test_two_workers_get_everything_once_in_each_of_two_epochs(
    corpus: Path, documents: list[str], tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        url = f"{server.url}?session=job&words=100"
        valid = await set_up(http, url, 150, 5)
        for _ in range(2):
            workers = await asyncio.gather(*(Client.worker(http, url) for _ in "ab"))
            parts = [await worker.fetch(16) for worker in workers]
            parts += await asyncio.gather(*(worker.read_all(16) for worker in workers))
            assert sum(len(part) for part in parts) == len(texts := merge(parts))
            assert all(parts[:2])
            assert not texts.keys() & valid.keys()
            assert not set(texts.values()) & set(valid.values())
            assert put_together((texts | valid).items()) == with_words(documents)

    serve(corpus, tmp_path, speech, PATIENT)


def test_an_id_means_the_same_text_for_any_batch_size_and_after_any_reset(
    corpus: Path, documents: list[str], tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        found = [await read_epoch(http, server.url, size) for size in (7, 256, 4096)]
        assert [*found[0].items()] == [*found[1].items()] == [*found[2].items()]
        assert put_together(found[0].items()) == with_words(documents)
        assert put_together((await read_epoch(http, f"{server.url}?words=3")).items()) == (
            with_words(documents)
        )
        other = await read_epoch(http, f"{server.url}?words=3", 4096)
        assert not other.keys() & found[0].keys()
        assert max(len(text.split()) for text in other.values()) == 3

    serve(corpus, tmp_path, speech)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab \n\t\r\u00a0\u3000\u6c34")), st.integers(1, 4))
def test_pieces_are_cut_behind_white_space_and_give_the_document(text: str, words: int) -> None:
    pieces = cut(text, words)
    assert "".join(pieces) == (text if text.strip() else "")
    assert [len(piece.split()) for piece in pieces[:-1]] == [words] * (len(pieces) - 1)
    assert all(0 < len(piece.split()) <= words for piece in pieces)
    assert not any(piece[0].isspace() for piece in pieces[1:])


def test_the_same_text_elsewhere_is_held_out_as_well(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        everything = await read_epoch(http, server.url)
        (one, *others) = (name for name, text in everything.items() if text == "twin")
        assert len(others) == 2
        await hold_out(http, server.url, [one])
        trained = await read_epoch(http, server.url)
        assert trained == {name: text for name, text in everything.items() if text != "twin"}
        first = next(iter(everything))
        await hold_out(http, server.url, [first])  # in place of the others
        client = await Client.dial(http, server.url)
        assert first != (await client.validate())["sample_id"]
        trained = await client.read_all(3)
        assert trained == {name: everything[name] for name in everything if name != first}
        await hold_out(http, server.url, [])
        assert await read_epoch(http, server.url) == everything

    serve(small, tmp_path, speech)


def test_a_reset_moves_nobody_else(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        first = await Client.worker(http, server.url)
        other = await Client.worker(http, f"{server.url}?session=other")
        found = await first.fetch(5)
        for _ in range(3):
            client = await Client.worker(http, server.url)
            await client.close()
        await other.send({"type": "reset"})
        found |= await first.fetch(5)
        assert len(found) == 10
        found |= await first.read_all(5)
        assert len(found) == 20

    serve(small, tmp_path, speech)


def test_a_worker_that_comes_late_gets_no_epoch_of_its_own(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        early = await Client.worker(http, server.url)
        found = await early.fetch(32)
        end = asyncio.create_task(early.fetch(32))
        late = await Client.worker(http, server.url)
        assert not end.done()
        assert await asyncio.gather(end, late.fetch(32)) == [{}, {}]
        assert await read_epoch(http, server.url) == found

    serve(small, tmp_path, speech, PATIENT)


def test_a_new_epoch_begins_while_a_slow_worker_has_yet_to_hear_of_the_old_ones_end(
    small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        slow, quick = await asyncio.gather(*(Client.worker(http, server.url) for _ in "ab"))
        found = await slow.fetch(1)
        found |= await quick.read_all(32)
        assert len(found) == 20
        quick = await Client.worker(http, server.url)
        again = await quick.fetch(4)
        assert await slow.fetch(32) == {}
        assert again | await quick.read_all(32) == found

    serve(small, tmp_path, speech, PATIENT)


def test_what_a_worker_took_when_it_dies_is_gone_for_its_epoch_only(
    small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        dying, other = await asyncio.gather(*(Client.worker(http, server.url) for _ in "ab"))
        lost = await dying.fetch(3)
        found = await other.fetch(3)
        await dying.close()
        back = await Client.worker(http, server.url)
        found |= await back.fetch(3)
        assert len(found) == 6
        found |= merge(await asyncio.gather(other.read_all(3), back.read_all(3)))
        assert len(found) == 17
        assert not found.keys() & lost.keys()
        alone = await Client.worker(http, server.url)
        await alone.fetch(3)
        await alone.close()
        assert await read_epoch(http, server.url) == found | lost

    serve(small, tmp_path, speech, PATIENT)


def test_a_client_that_goes_while_it_waits_for_the_end_is_forgotten_at_once(
    small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.worker(http, server.url)
        everything = await client.fetch(32)
        await client.send(data_request(32))
        await client.close()
        client = await Client.worker(http, server.url)
        assert await client.fetch(32) == everything

    serve(small, tmp_path, speech, Timing(gathering_seconds=10))


def test_sessions_know_nothing_of_one_another(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        valid = await set_up(http, f"{server.url}?session=one", 20, 4)
        workers = [await Client.worker(http, f"{server.url}?session={n}") for n in ("one", "two")]
        await workers[0].fetch(2)
        status = (await workers[0].ask({"type": "status"}))["payload"]
        assert status == {
            "active_connections": 1,
            "current_position": 2,
            "validation_ids_count": len(valid),
        }
        assert len(await workers[1].read_all(8)) == 20
        assert (await workers[0].ask({"type": "status"}))["payload"] == status

    serve(small, tmp_path, speech)


def test_the_server_may_go_through_the_corpus_several_times(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.worker(http, f"{server.url}?epochs=3")
        counts: Counter[str] = Counter()
        while texts := await client.fetch(6):
            counts.update(texts.keys())
        assert set(counts.values()) == {3}
        assert len(counts) == 20

    serve(small, tmp_path, speech)


def test_a_client_that_never_resets_gets_an_epoch(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.dial(http, server.url)
        assert len((await client.ask(data_request(6)))["payload"]) == 6
        other = await Client.dial(http, server.url)
        assert len((await other.ask(data_request(32)))["payload"]) == 14

    serve(small, tmp_path, speech)


def test_a_corpus_that_grows_is_taken_up_with_the_next_epoch(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    small.rename(folder / "a.parquet")

    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        everything = await read_epoch(http, server.url)
        await hold_out(http, server.url, [n for n, text in everything.items() if text == "twin"])
        client = await Client.worker(http, server.url)
        found = await client.fetch(2)
        pq.write_table(pa.table({"text": ["more", "twin"]}), folder / "b.parquet")
        other = await Client.worker(http, server.url)
        found |= await other.fetch(2)
        found |= merge(await asyncio.gather(client.read_all(5), other.read_all(5)))
        assert len(found) == 17
        assert found.items() <= everything.items()
        again = await read_epoch(http, server.url)
        assert sorted(again.values()) == sorted([*found.values(), "more"])
        assert not again.keys() & everything.keys()  # another corpus has other ids

    serve(folder, tmp_path, speech, PATIENT)


def test_the_next_shard_is_read_while_this_one_is_served(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        asked = []
        documents = server.library.documents

        async def noting(listing: Any, index: int) -> list[str]:
            asked.append(index)
            return await documents(listing, index)

        server.library.documents = noting  # type: ignore[method-assign]
        client = await Client.worker(http, server.url)
        await client.fetch(1)
        assert max(asked) == 1
        await client.fetch(6)
        assert max(asked) == 2

    serve(small, tmp_path, speech)
