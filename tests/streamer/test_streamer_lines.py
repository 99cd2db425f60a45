"""Lines: whatever a network does to what is sent, the stream is the undisturbed one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy, Toxics
from streamer_harness import ServerProcess, ask, sha256, talk

from streamer.client import Batch, Stream, StreamClient, StreamError

Start = Callable[..., ServerProcess]
Harm = Callable[[int], Toxics]
MARKER = b'{"stream":1,"start"'
"""The first bytes of a frame's header."""
WEBSOCKET_BYTES = 4
"""Header of a WebSocket message of 126 to 65,535 bytes."""
HARMLESS = Toxics()


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
