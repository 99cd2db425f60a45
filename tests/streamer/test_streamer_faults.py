"""Faults: whatever happens to servers and lines, the stream is the undisturbed one."""

from __future__ import annotations

import ctypes
import itertools
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy, Toxics
from streamer_harness import ServerProcess, ask, epoch, sha256, talk

from streamer.client import Batch, Stream, StreamClient, StreamError

Start = Callable[..., ServerProcess]
Harm = Callable[[int], Toxics]
MARKER = b'{"stream":1,"start"'
"""The first bytes of a frame's header."""
WEBSOCKET_BYTES = 4
"""Header of a WebSocket message of 126 to 65,535 bytes."""
HARMLESS = Toxics()
AWAY_SECONDS = 1.0
"""For which a server is not there: several tries to connect."""


@pytest.fixture
def proxied(server: ServerProcess) -> Iterator[Callable[..., FaultProxy]]:
    made: list[FaultProxy] = []

    def make(harm: Harm = lambda number: HARMLESS, **options: Any) -> FaultProxy:
        made.append(FaultProxy(options.pop("ports", [server.port]), harm, **options))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def through(proxy: FaultProxy, plan: dict[str, Any], tokenizer_json: str) -> tuple[str, int]:
    with StreamClient([proxy.url], deadline_seconds=30) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2)
        return sha256(stream), stream.reconnects


def harmed(first: int, toxics: Callable[[int], Toxics]) -> Harm:
    """`toxics` of a number for connections 1 to `first`, as connection 0 uploads a tokenizer."""
    return lambda number: toxics(number) if 1 <= number <= first else HARMLESS


class TestLines:
    def test_resets_at_many_places(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
    ) -> None:
        proxy = proxied(harmed(12, lambda n: Toxics(reset_after_bytes=5000 + 1777 * n)))
        digest, reconnects = through(proxy, plan, tokenizer_json)
        assert (digest, reconnects) == (reference, proxy.num_faults)
        assert reconnects == 12

    def test_clean_ends_at_many_places(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
    ) -> None:
        proxy = proxied(harmed(12, lambda n: Toxics(close_after_bytes=5000 + 1777 * n)))
        assert through(proxy, plan, tokenizer_json) == (reference, 12)

    def test_flipped_bits_are_asked_for_again(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
    ) -> None:
        """Four times in a row; a fifth would be an error."""
        proxy = proxied(harmed(4, lambda n: Toxics(marker=MARKER, flip_at_byte=200 + 150 * n)))
        assert through(proxy, plan, tokenizer_json) == (reference, 4)

    def test_a_line_that_always_flips_is_given_up(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        proxy = proxied(lambda number: Toxics(marker=MARKER, flip_at_byte=300))
        with pytest.raises(StreamError, match="5 times") as caught:
            through(proxy, plan, tokenizer_json)
        assert caught.value.code == "corrupt_frame"

    @pytest.mark.parametrize("place", [-20, -8, 2, 15, 50, 62])
    def test_a_damaged_answer_is_not_believed(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str, place: int
    ) -> None:
        """In the plan, its hash, or the cursor of the message that opens a stream."""
        toxics = Toxics(marker=b'"plan_id"', flip_at_byte=place)
        proxy = proxied(harmed(1, lambda n: toxics))
        assert through(proxy, plan, tokenizer_json)[0] == reference
        assert proxy.num_faults == 1

    def test_a_flipped_length_is_noticed_although_the_line_lives(
        self,
        proxied: Any,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The length is in the WebSocket's own header, six bytes before that of our frame."""
        monkeypatch.setattr("streamer.transport.SILENCE_SHARE", 0.05)
        monkeypatch.setattr("streamer.transport.SHORTEST_SILENCE_SECONDS", 0.1)
        proxy = proxied(harmed(1, lambda n: Toxics(marker=MARKER, flip_at_byte=-6)))
        with StreamClient([proxy.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=1)
            assert sha256(stream) == reference
            assert stream.reconnects == 1

    @pytest.mark.parametrize(
        "toxics",
        [
            Toxics(slice_bytes=1),
            Toxics(latency_seconds=0.2),
            Toxics(bytes_per_second=64_000, slice_bytes=500, latency_seconds=0.2),
        ],
        ids=["single-bytes", "latency", "slow"],
    )
    def test_slow_lines(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, toxics: Toxics
    ) -> None:
        def take(client: StreamClient) -> str:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, credit=64)
            return sha256(itertools.islice(stream, 100))

        with StreamClient([proxied().url]) as client:
            wanted = take(client)
        with StreamClient([proxied(lambda number: toxics).url], deadline_seconds=30) as client:
            assert take(client) == wanted

    def test_a_line_that_falls_silent_is_left(
        self,
        proxied: Any,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("streamer.transport.HEARTBEAT_SECONDS", 1.0)
        proxy = proxied(harmed(2, lambda n: Toxics(stall_after_bytes=40_000 * n)))
        digest, reconnects = through(proxy, plan, tokenizer_json)
        assert digest == reference
        assert reconnects >= 2

    def test_batches_that_wait_while_the_line_breaks(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
    ) -> None:
        """What was received and not taken yet is neither lost nor asked for again."""
        proxy = proxied()
        with StreamClient([proxy.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=16)
            batches = []
            for number in range(1, 5):
                batches += itertools.islice(stream, 5 * number)
                time.sleep(0.3)  # for the client to be full again
                proxy.cut()
                until = time.monotonic() + 30
                while stream.reconnects < number:
                    assert time.monotonic() < until
                    time.sleep(0.01)
            assert sha256([*batches, *stream]) == reference

    def test_every_request_may_reach_another_server(
        self,
        server: ServerProcess,
        start_server: Start,
        corpus: Path,
        proxied: Any,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
    ) -> None:
        """Those that have no token cache, and do not know the tokenizer, are as good."""
        ports = [server.port, start_server(corpus).port]
        proxy = proxied(harmed(5, lambda n: Toxics(close_after_bytes=50_000)), ports=ports)
        assert through(proxy, plan, tokenizer_json) == (reference, 5)

    def test_a_path_before_ours(
        self, proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
    ) -> None:
        proxy = proxied(prefix="/team/stream")
        assert proxy.url.endswith("/team/stream/ws")
        assert through(proxy, plan, tokenizer_json) == (reference, 0)


class TestEveryByteOfAFrame:
    """Connections of eight streams are harmed after 0, 1, 2, ... bytes of a small frame.

    A flipped length in front of it is left out: what that costs is a deadline.
    """

    @pytest.fixture
    def small(self, plan: dict[str, Any]) -> dict[str, Any]:
        return plan | {"sequence_length": 8}

    @pytest.fixture
    def undisturbed(
        self, client: StreamClient, small: dict[str, Any], tokenizer_json: str
    ) -> list[Batch]:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=small, split="train", batch=1)
        batches = list(itertools.islice(stream, 2000))
        stream.close()
        return batches

    @pytest.fixture
    def frame_bytes(
        self, server: ServerProcess, opening: Any, small: Any, undisturbed: list[Batch]
    ) -> int:
        """Of the last frame, whose numbers have more digits than those of the first ones."""
        cursor = undisturbed[-1].start
        sizes: list[int] = []

        async def measure(socket: Any) -> None:
            opened = await ask(socket, opening | {"plan": small, "batch": 1, "cursor": cursor})
            assert opened["op"] == "opened"
            sizes.append(len(await socket.receive_bytes()))

        talk(server.url, measure)
        return sizes[0]

    def run(self, proxy: FaultProxy, num_faults: int, small: Any, undisturbed: Any) -> None:
        """Reads until all eight streams have a connection that is left in peace."""
        wrong: list[int] = []

        def read(stream: Stream) -> None:
            batches = []
            while proxy.num_connections < num_faults + 8 and len(batches) < len(undisturbed):
                batches.append(next(stream))
            if sha256(batches) != sha256(undisturbed[: len(batches)]):
                wrong.append(len(batches))

        with StreamClient([proxy.url], deadline_seconds=30) as client:
            streams = [client.open(plan=small, split="train", batch=1, credit=1) for _ in range(8)]
            readers = [threading.Thread(target=read, args=(stream,)) for stream in streams]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(120)
            assert not any(reader.is_alive() for reader in readers)
            assert proxy.num_connections == num_faults + 8
            assert proxy.num_faults >= num_faults
            assert sum(stream.reconnects for stream in streams) == num_faults
        assert wrong == []

    def test_resets(
        self, proxied: Any, small: Any, undisturbed: list[Batch], frame_bytes: int
    ) -> None:
        """Every other connection gets a frame further, without which pauses would grow."""
        size = frame_bytes + WEBSOCKET_BYTES
        places = range(-8, size)
        cuts = [cut for place in places for cut in (place, place + size)]

        def harm(number: int) -> Toxics:
            if number >= len(cuts):
                return HARMLESS
            return Toxics(marker=MARKER, reset_after_bytes=cuts[number])

        self.run(proxied(harm), len(cuts), small, undisturbed)

    def test_flipped_bits(
        self, proxied: Any, small: Any, undisturbed: list[Batch], frame_bytes: int
    ) -> None:
        """In the second frame of each connection, which ends behind the third at the latest.

        The first one is whole, so that no stream has five damaged ones in a row.
        """
        size = frame_bytes + WEBSOCKET_BYTES
        flips = range(size + 8, size + frame_bytes - 24, 3)

        def harm(number: int) -> Toxics:
            if number >= len(flips):
                return HARMLESS
            end = 3 * size
            return Toxics(marker=MARKER, flip_at_byte=flips[number], reset_after_bytes=end)

        self.run(proxied(harm), len(flips), small, undisturbed)


class TestServers:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_one_that_comes_back(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        number: int,
    ) -> None:
        servers = [start_server(corpus)]
        with StreamClient([servers[0].url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = []
            for index, batch in enumerate(stream):
                batches.append(batch)
                if index in (5, 30):
                    servers[-1].signal(number)
                    assert servers[-1].wait() == (0 if number == signal.SIGTERM else -number)
                    time.sleep(AWAY_SECONDS if index == 5 and number == signal.SIGKILL else 0)
                    servers.append(start_server(corpus, port=servers[0].port))
            assert sha256(batches) == reference
            assert stream.reconnects == 2

    def test_two_of_which_one_is_killed_again_and_again(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
    ) -> None:
        source = random.Random(3)
        servers = [start_server(corpus), start_server(corpus)]
        urls = [server.url for server in servers]
        with StreamClient(urls, deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = []
            for index, batch in enumerate(stream):
                batches.append(batch)
                if index % 100 == 50 and index < 500:
                    which = source.randrange(2)
                    servers[which].kill()
                    batches.append(next(stream))
                    servers[which] = start_server(corpus, port=servers[which].port)
            assert sha256(batches) == reference
            assert stream.reconnects >= 1

    def test_a_stopped_one_is_left_for_another(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("streamer.transport.HEARTBEAT_SECONDS", 1.0)
        servers = [start_server(corpus), start_server(corpus)]
        urls = [server.url for server in servers]
        with StreamClient(urls, deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = [next(stream) for _ in range(9)]
            servers[0].signal(signal.SIGSTOP)
            assert sha256([*batches, *stream]) == reference
            assert stream.reconnects >= 1

    def test_an_absent_one_that_comes(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        starting = threading.Timer(AWAY_SECONDS, start_server, (corpus,), {"port": port})
        starting.start()
        with StreamClient([f"ws://127.0.0.1:{port}/ws"], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            assert len(epoch(client, plan, 256)) > 1
        starting.join()

    def test_an_absent_one_is_waited_for_until_the_deadline(self, plan: dict[str, Any]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
        with StreamClient([url], deadline_seconds=1.0) as client:
            began = time.monotonic()
            for call in (client.info, lambda: client.open(plan=plan, split="train", batch=1)):
                with pytest.raises(StreamError, match="no progress for 1") as caught:
                    call()
                assert caught.value.code == "deadline"
                assert url in str(caught.value)
                assert "attempts failed" in str(caught.value)
                assert "\n" not in str(caught.value)
            assert time.monotonic() - began >= 2

    def test_a_silent_one_ends_at_the_deadline(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        server = start_server(corpus)
        with StreamClient([server.url], deadline_seconds=1.5) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, credit=2)
            next(stream)
            time.sleep(2)  # nothing is owed while nothing is taken, so that no deadline passes
            next(stream)
            server.signal(signal.SIGSTOP)
            with pytest.raises(StreamError) as caught:
                for _ in stream:
                    pass
            assert caught.value.code == "deadline"
            server.signal(signal.SIGCONT)

    @pytest.mark.parametrize("url", ["http//nowhere", "ws://127.0.0.1:PORT/wrong"])
    def test_a_wrong_address_is_refused_at_once(self, server: ServerProcess, url: str) -> None:
        client = StreamClient([url.replace("PORT", str(server.port))])
        with client, pytest.raises(StreamError) as caught:
            client.info()
        assert caught.value.code == "refused"

    def test_other_data_after_a_reconnect_is_refused(
        self,
        start_server: Start,
        tmp_path: Path,
        corpus: Path,
        proxied: Any,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
    ) -> None:
        shutil.copytree(corpus, tmp_path / "corpus")
        proxy = proxied(ports=[start_server(tmp_path / "corpus").port])
        with StreamClient([proxy.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, credit=1)
            next(stream)
            path = tmp_path / "corpus" / "a.parquet"
            pq.write_table(pa.table({"text": ["other"] * 9}), path)
            proxy.cut()
            with pytest.raises(StreamError) as caught:
                for _ in stream:
                    pass
            assert caught.value.code == "plan_mismatch"
            assert caught.value.field == "sources.0.fingerprint"


class TestClients:
    def test_a_stalled_one_does_not_hurt_another(
        self, client: StreamClient, plan: dict[str, Any], reference: str
    ) -> None:
        stalled = [client.open(plan=plan, split="train", batch=64, credit=64) for _ in range(4)]
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        for stream in stalled:
            stream.close()

    def test_one_that_never_reads_does_not_hurt_another(
        self, server: ServerProcess, client: StreamClient, plan: dict[str, Any], reference: str
    ) -> None:
        request = (
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Protocol: babygpt.stream.v2\r\n\r\n"
        )
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for line in lines:
            line.sendall(request.encode())
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        for line in lines:
            line.close()

    def test_a_slow_trainer_costs_the_server_its_credit_only(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        """Each of four streams is owed up to 8 batches of 0.5 MB."""
        server = start_server(corpus)
        status = Path(f"/proc/{server.process.pid}/status")

        def resident_bytes() -> int:
            (line,) = (x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
            return int(line.split()[1]) * 1024

        with StreamClient([server.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            epoch(client, plan, 4096, epochs=8, credit=8)
            before, largest = resident_bytes(), 0
            streams = [
                client.open(plan=plan, split="train", batch=4096, credit=8) for _ in range(4)
            ]
            for _ in range(10):
                for stream in streams:
                    next(stream)
                time.sleep(0.2)
                largest = max(largest, resident_bytes() - before)
        assert largest < 4 * (8 + 1) * 4096 * 65 * 2

    def test_one_that_computes_long_without_letting_go(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Both sides' heartbeats fail while no other thread of the client can run."""
        monkeypatch.setattr("streamer.transport.HEARTBEAT_SECONDS", 1.0)
        server = start_server(corpus, "--limit=heartbeat_seconds=0.5")
        with StreamClient([server.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=4)
            batches = [next(stream) for _ in range(9)]
            ctypes.PyDLL(None).sleep(2)
            assert sha256([*batches, *stream]) == reference
