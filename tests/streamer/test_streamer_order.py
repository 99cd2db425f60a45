"""The arithmetic: permutations, blocks, cursors, splits and frames."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.blocks import Group, num_blocks
from streamer.cursor import Cursor, Position, parse_cursor
from streamer.errors import RequestError
from streamer.fields import Fields
from streamer.order import WINDOW, Order, permutation, permutation_key, permutation_part, splitmix64
from streamer.protocol import Frame, FrameError, decode_frames, encode_frame
from streamer.split import is_validation, split_documents


def decode_frame(message: bytes) -> Frame:
    (frame,) = decode_frames(message)
    return frame


def test_splitmix64_matches_its_published_outputs() -> None:
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(deadline=None)
@given(key=st.integers(0, 2**64 - 1), size=st.integers(0, 300))
def test_permutation_is_the_documented_argsort(key: int, size: int) -> None:
    ranks = [splitmix64((key + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(size)]
    assert permutation(key, size).tolist() == sorted(range(size), key=lambda i: ranks[i])


def test_permutation_of_one_key_never_changes() -> None:
    assert permutation(permutation_key(5, 0, 0), 8).tolist() == GOLDEN
    assert permutation_key(0, 0, 0) == splitmix64(splitmix64(splitmix64(0)))


GOLDEN = [1, 2, 6, 5, 3, 4, 7, 0]


@settings(deadline=None, max_examples=50)
@given(
    key=st.integers(0, 2**64 - 1),
    size=st.one_of(st.integers(0, 300), st.integers(0, 5 * WINDOW)),
    data=st.data(),
)
def test_a_part_of_a_permutation_needs_not_the_whole(
    key: int, size: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.one_of(st.integers(start, size), st.just(min(size, start + 7))))
    whole = permutation(key, size)
    assert np.array_equal(permutation_part(key, size, start, stop), whole[start:stop])
    order, middle = Order(key, size), (start + stop) // 2
    parts = [order.part(start, middle), order.part(middle, stop)]
    assert np.array_equal(np.concatenate(parts), whole[start:stop])
    assert np.array_equal(Order(None, size).part(start, stop), np.arange(start, stop))


def test_bounds_that_are_too_narrow_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.order.MARGIN", 0)
    whole = permutation(3, 100_000)
    assert np.array_equal(permutation_part(3, 100_000, 50_000, 50_100), whole[50_000:50_100])


@settings(deadline=None)
@given(data=st.data())
def test_every_token_is_a_target_exactly_once(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=5))
    length = data.draw(st.integers(1, 20))
    key = data.draw(st.one_of(st.none(), st.integers(0, 2**64 - 1)))
    offsets = np.cumsum([0, *sizes])
    tokens = [np.arange(a, b, dtype="<u2") for a, b in itertools.pairwise(offsets)]
    group = Group(tokens, length, key, pad_id=9999)
    assert group.num_blocks == sum(num_blocks(size, length) for size in sizes)
    rows = np.empty((group.num_blocks, length + 1), "<u2")
    lengths = np.empty(group.num_blocks, np.int32)
    cut = data.draw(st.integers(0, group.num_blocks))
    for start, stop in ((0, cut), (cut, group.num_blocks)):
        group.gather(start, stop, rows[start:stop], lengths[start:stop])
    targets = [t for row, n in zip(rows, lengths, strict=True) for t in row[1:n].tolist()]
    assert sorted(targets) == [t for shard in tokens for t in shard[1:].tolist()]
    for row, n in zip(rows, lengths, strict=True):
        assert np.array_equal(np.diff(row[:n].astype(int)), np.ones(n - 1))
        assert (row[n:] == 9999).all()
    if key is None:
        assert targets == sorted(targets)


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=6), data=st.data())
def test_cursors_are_normal_and_visit_every_block(counts: list[int], data: st.DataObject) -> None:
    place, seen = Position(), []
    while place.epoch == 0:
        size = counts[place.group]
        assert place.block < max(size, 1)
        taken = data.draw(st.integers(min(1, size - place.block), size - place.block))
        seen += [(place.group, place.block + i) for i in range(taken)]
        place = place.advance(taken, size, len(counts))
    assert place == Position(1)
    assert seen == [(g, b) for g, size in enumerate(counts) for b in range(size)]


counts_of_cursors = st.integers(0, 2**53 - 1)


@settings(deadline=None)
@given(slot=counts_of_cursors, e=counts_of_cursors, g=counts_of_cursors, b=counts_of_cursors)
def test_cursor_survives_its_json(slot: int, e: int, g: int, b: int) -> None:
    cursor = Cursor(slot, (Position(e, g, b),))
    assert parse_cursor(Fields(cursor.payload(), "cursor"), 1) == cursor


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "cursor.slot"),
        ({"slot": True, "sources": []}, "cursor.slot"),
        ({"slot": 0, "sources": []}, "cursor.sources"),
        ({"slot": 0, "sources": [7]}, "cursor.sources.0"),
        ({"slot": 0, "sources": [{"epoch": -1}]}, "cursor.sources.0.epoch"),
        ({"slot": 0, "sources": [], "x": 1}, "cursor.x"),
    ],
)
def test_bad_cursor_names_its_field(value: object, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_cursor(Fields(value, "cursor"), 1)
    assert caught.value.field == field


@settings(deadline=None)
@given(st.lists(st.text()), st.floats(0, 1), st.text(max_size=16))
def test_split_is_a_partition(documents: list[str], fraction: float, salt: str) -> None:
    train, train_bytes = split_documents(documents, "train", fraction, salt)
    validation, validation_bytes = split_documents(documents, "validation", fraction, salt)
    assert sorted(train + validation) == sorted(documents)
    assert not set(train) & set(validation)
    assert train_bytes + validation_bytes == sum(len(d.encode()) for d in documents)


def test_split_honours_its_fraction() -> None:
    share = sum(is_validation(str(i).encode(), 0.2, "s") for i in range(5000)) / 5000
    assert 0.17 < share < 0.23
    assert not any(is_validation(str(i).encode(), 0.0, "s") for i in range(100))
    assert all(is_validation(str(i).encode(), 1.0, "s") for i in range(100))


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_frame_survives_the_wire_aligned(dtype: str) -> None:
    rows = np.arange(12, dtype=dtype).reshape(3, 4)
    lengths = np.array([4, 2, 4], np.int32)
    frame = encode_frame(1, {"slot": 0}, {"slot": 3}, rows, lengths)
    assert (len(frame) - rows.nbytes) % 8 == 0
    header, found, found_lengths = decode_frame(frame)
    assert np.array_equal(found, rows)
    assert found.dtype == rows.dtype
    assert found_lengths.tolist() == [4, 2, 4]
    assert (header["stream"], header["start"], header["next"]) == (1, {"slot": 0}, {"slot": 3})


def test_frame_without_rows() -> None:
    rows, lengths = np.empty((0, 5), "<u2"), np.empty(0, np.int32)
    assert decode_frame(encode_frame(1, {}, {}, rows, lengths))[1].shape == (0, 5)


FRAME = encode_frame(
    1, {"slot": 5}, {"slot": 7}, np.arange(10, dtype="<u2").reshape(2, 5), np.array([5, 3], "i4")
)


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, 8 * len(FRAME) - 1))
def test_one_flipped_bit_is_noticed(bit: int) -> None:
    damaged = bytearray(FRAME)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        header, rows, lengths = decode_frame(bytes(damaged))
    except FrameError:
        return
    # Only the padding between header and array can change without harm.
    assert (header["start"], header["next"], lengths.tolist()) == (
        {"slot": 5},
        {"slot": 7},
        [5, 3],
    )
    assert np.array_equal(rows, np.arange(10).reshape(2, 5))


@pytest.mark.parametrize("size", range(0, len(FRAME), 7))
def test_a_cut_frame_is_noticed(size: int) -> None:
    with pytest.raises(FrameError):
        decode_frame(FRAME[:size])
