"""Instructions: prompts and responses as whole samples in blocks, each exactly once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamer_forks import fork
from streamer_harness import EOT, FRACTION, SALT, ServerProcess, epoch, make_plan, rows, sha256
from tokenizers import Tokenizer

from streamer.blocks import PackedGroup, pack
from streamer.cache import TokenCache
from streamer.client import Batch, StreamClient, StreamError
from streamer.errors import SourceError
from streamer.plan import agree
from streamer.sources.listing import Listing
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
from streamer.split import is_validation

PIECES = ("Q: {question}\n", "Hint: {hint}\n", "A:")
ARGUMENTS = ("--column=answer", *(f"--prompt={piece}" for piece in PIECES))
LENGTH = 64
Row = dict[str, str | None]


def make_rows() -> list[Row]:
    """Some 90 rows, among them all that is odd: braces, the name of the end of text, blanks."""
    made: list[Row] = [
        {
            "question": f"what is number {number}?" + " and so on" * (number % 5),
            "hint": ["", None, "count", "{question}"][number % 4],
            "answer": "one more " * (1 + number % 7),
        }
        for number in range(80)
    ]
    made += [
        {"question": f"{EOT} {{answer}}", "hint": "", "answer": f"text {EOT} text"},
        {"question": "", "hint": "only a hint", "answer": "yes"},
        {"question": "no answer at all", "hint": "", "answer": None},
        {"question": "an empty answer", "hint": "", "answer": ""},
        {"question": "a long answer", "hint": "", "answer": "river " * 200},
        {"question": "a long question " * 100, "hint": "", "answer": "no room"},
    ]
    return made


def sample_of(row: Row) -> tuple[str, str] | None:
    """Prompt and response, written down once more."""
    if row["answer"] is None:
        return None
    question = f"Q: {row['question']}\n" if row["question"] else ""
    hint = f"Hint: {row['hint']}\n" if row["hint"] else ""
    return f"{question}{hint}A:", row["answer"]


def samples(split: str) -> list[tuple[str, str]]:
    """The samples of a split in their order."""
    found = [sample for row in make_rows() if (sample := sample_of(row)) is not None]
    wanted = split == "validation"
    return [s for s in found if is_validation("".join(s).encode(), FRACTION, SALT) == wanted]


def expected(split: str, tokenizer: Tokenizer) -> list[list[int]]:
    """`prompt EOT response EOT` of each sample that has room for a response, cut to a block."""
    eot = tokenizer.token_to_id(EOT)
    found = []
    for sample in samples(split):
        prompt, response = (tokenizer.encode(part).ids for part in sample)
        if len(prompt) + 1 < LENGTH:
            found.append([*prompt, eot, *response, eot][:LENGTH])
    return found


def split_block(row: list[int], eot: int) -> list[list[int]]:
    """The samples of a block."""
    assert row[0] == eot
    borders = [0, *[at for at, token in enumerate(row) if token == eot and at][1::2]]
    pieces = [row[a + 1 : b + 1] for a, b in pairwise(borders)]
    rest = row[borders[-1] + 1 :]
    return [*pieces, rest] if rest else pieces


def samples_of(batches: Iterable[Batch], eot: int) -> list[list[int]]:
    return [sample for row in rows(batches) for sample in split_block(row, eot)]


@pytest.fixture(scope="module")
def plain(tokenizer_json: str) -> Tokenizer:
    """A tokenizer that takes the name of the end of text for text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows in both formats that have columns."""
    folder = tmp_path_factory.mktemp("instructions")
    parquet, lines = folder / "a.parquet", folder / "a.jsonl"
    pq.write_table(pa.Table.from_pylist(make_rows()), parquet, row_group_size=30)
    lines.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))
    return {"parquet": parquet, "jsonl": lines}


@pytest.fixture(scope="module")
def instructions_server(
    corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    cache = tmp_path_factory.mktemp("cache")
    process = ServerProcess(corpora["parquet"], cache, *ARGUMENTS, start=fork)
    yield process
    process.kill()


@pytest.fixture
def samples_client(
    instructions_server: ServerProcess, tokenizer_json: str
) -> Iterator[StreamClient]:
    with StreamClient([instructions_server.url], deadline_seconds=20) as opened:
        opened.upload_tokenizer(tokenizer_json)
        yield opened


@given(
    sizes=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20),
    length=st.integers(2, 16),
)
def test_packing(sizes: list[tuple[int, int]], length: int) -> None:
    """Whole samples, as many as fit, in their order; what is too long is cut and counted."""
    parts = [[[n + 1] * prompt, [n + 1] * answer] for n, (prompt, answer) in enumerate(sizes)]
    flat = [0] + [token for sample in parts for part in sample for token in (*part, 0)]
    tokens = np.array(flat if sizes else [], np.uint16)
    spans, cuts = pack(tokens, length, 0)
    blocks = [tokens[first:stop].tolist() for first, stop in spans]
    found = [sample for block in blocks for sample in split_block(block, 0)]
    whole = [[*prompt, 0, *answer, 0] for prompt, answer in parts]
    assert found == [
        sample[:length]
        for sample, (prompt, _) in zip(whole, parts, strict=True)
        if len(prompt) + 1 < length
    ]
    assert all(len(block) <= length + 1 for block in blocks)
    for block, following in pairwise(blocks):
        first = split_block(following, 0)[0]
        assert len(block) + len(first) > length + 1
    too_long = [
        prompt for sample, (prompt, _) in zip(whole, parts, strict=True) if len(sample) > length
    ]
    assert cuts.num_left_out == sum(len(prompt) + 1 >= length for prompt in too_long)
    assert cuts.num_cut == len(too_long) - cuts.num_left_out
    group = PackedGroup([tokens], length, None, 0)
    assert group.num_blocks == len(blocks)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_sample_once(
    kind: str,
    split: str,
    corpora: dict[str, Path],
    start_server: Callable[..., ServerProcess],
    tokenizer_json: str,
    plain: Tokenizer,
) -> None:
    server = start_server(corpora[kind], *ARGUMENTS)
    plan = make_plan(tokenizer_json, shuffle=None)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        found = samples_of(epoch(client, plan, 3, split=split), plain.token_to_id(EOT))
    assert found == expected(split, plain)
    server.signal(15)
    server.wait()
    said = re.findall(r"samples_cut .* cut=(\d+) left_out=(\d+)", server.errors)
    sizes = [[len(plain.encode(part).ids) for part in sample] for sample in samples(split)]
    left_out = sum(prompt + 1 >= LENGTH for prompt, _ in sizes)
    cut = sum(prompt + response + 2 > LENGTH for prompt, response in sizes) - left_out
    counted = [sum(int(line[index]) for line in said) for index in (0, 1)]  # a line a shard
    assert counted == [cut, left_out]
    assert cut


def test_padding_is_behind(samples_client: StreamClient, tokenizer_json: str) -> None:
    plan = make_plan(tokenizer_json)
    eot = plan["tokenizer"]["eot_id"]
    for batch in epoch(samples_client, plan, 4):
        for row, length in zip(batch.tokens, batch.lengths, strict=True):
            assert (row[length:] == eot).all()
            assert (row[:length] == eot).sum() % 2 == 1 or length == LENGTH + 1


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_order(
    world: int, samples_client: StreamClient, tokenizer_json: str
) -> None:
    plan = make_plan(tokenizer_json)
    whole = epoch(samples_client, plan, 4, epochs=2)
    parts = [
        epoch(samples_client, plan, 4, epochs=2, rank=rank, world=world) for rank in range(world)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert np.array_equal(batch.tokens, np.concatenate([s.tokens for s in shares]))
        assert np.array_equal(batch.lengths, np.concatenate([s.lengths for s in shares]))
        assert all(share.next == batch.next for share in shares)


def test_goes_on_at_every_cursor(samples_client: StreamClient, tokenizer_json: str) -> None:
    plan = make_plan(tokenizer_json)
    whole = epoch(samples_client, plan, 2, epochs=2)
    for at in range(1, len(whole), 5):
        stream = samples_client.open(
            plan=plan, split="train", batch=2, epochs=2, cursor=whole[at].start
        )
        assert sha256(stream) == sha256(whole[at:])


def test_text_is_prompt_and_response(samples_client: StreamClient) -> None:
    for split in ("train", "validation"):
        found = samples_client.documents(
            split=split, fraction=FRACTION, salt=SALT, max_documents=1000
        )
        assert found == ["".join(sample) for sample in samples(split)]


def listing_of(path: Path, prompt: tuple[str, ...] | None, tmp_path: Path) -> Listing:
    spec = SourceSpec(str(path), column="answer", prompt=prompt)
    return Shelf(TokenCache(tmp_path / "cache").disk).list_source(spec)


def test_the_template_is_part_of_the_plan(
    corpora: dict[str, Path], tokenizer_json: str, tmp_path: Path
) -> None:
    path = corpora["parquet"]
    text, one, other = (
        listing_of(path, prompt, tmp_path) for prompt in (None, PIECES, ("Q: {question}",))
    )
    assert len({listing.fingerprint for listing in (text, one, other)}) == 3
    proposed: dict[str, Any] = make_plan(tokenizer_json)
    plan = agree(proposed, [one], 400)
    assert plan.payload["sources"][0]["prompt"] == list(PIECES)
    assert agree(plan.payload, [one], 400).plan_id == plan.plan_id
    assert "prompt" not in agree(proposed, [text], 400).payload["sources"][0]
    wrong = json.loads(json.dumps(plan.payload))
    wrong["sources"][0]["fingerprint"] = other.fingerprint
    with pytest.raises(Exception, match=r"sources\.0\.prompt is"):
        agree(wrong, [other], 400)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_column_is_named(kind: str, corpora: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'title'; its .* are question, hint, answer") as caught:
        listing_of(corpora[kind], ("{question}", "{title}"), tmp_path)
    assert "\n" not in str(caught.value)


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SourceError, match=r"a\.txt has no columns"):
        listing_of(tmp_path / "a.txt", PIECES, tmp_path)


def test_a_plan_of_another_template_is_refused(
    samples_client: StreamClient, tokenizer_json: str
) -> None:
    plan = samples_client.open(plan=make_plan(tokenizer_json), split="train", batch=1).plan
    plan = json.loads(json.dumps(plan))
    plan["sources"][0]["prompt"] = ["{question}"]
    with pytest.raises(StreamError, match=r"sources\.0\.prompt"):
        samples_client.open(plan=plan, split="train", batch=1)
