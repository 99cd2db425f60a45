"""What the tests of EIR's client have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from eir_reference_server import EOT, EirReferenceServer
from tokenizers import Tokenizer

from streamer.client import Batch, StreamError
from streamer.eir.client import EirClient
from streamer.eir.held_out import RUN_WORDS

Serve = Callable[..., EirReferenceServer]
Connect = Callable[..., EirClient]


def joined(batches: Iterable[Batch]) -> list[int]:
    """The one text that blocks were cut from; asserts that they overlap by one."""
    found: list[int] = []
    for batch in batches:
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True):
            assert 2 <= length <= len(row)
            if found:
                assert row[0] == found[-1]
            found += row[bool(found) : length]
    return found


def words_in(tokens: list[int], tokenizer_json: str) -> list[str]:
    text: str = Tokenizer.from_str(tokenizer_json).decode(tokens, skip_special_tokens=False)
    return text.replace(EOT, " ").split()


def runs_of(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[n : n + RUN_WORDS]) for n in range(len(words) - RUN_WORDS + 1)}


def failure(work: Callable[[], object]) -> StreamError:
    """The error of work; asserts that it is one line."""
    with pytest.raises(StreamError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value
