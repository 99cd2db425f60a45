"""Evaluation of a trained model: windows, scores, likelihoods, and the command."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import TinyRun, architecture
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.evaluation.cli import main
from babygpt_exp.evaluation.likelihood import evaluate, loglikelihood, loglikelihood_rolling
from babygpt_exp.evaluation.scoring import padded_length, score
from babygpt_exp.evaluation.windows import Passage, windows
from babygpt_exp.model import Decoder, ModelConfig, build_model
from babygpt_exp.tokenizer import END_OF_TEXT, TextTokenizer, train_bpe
from babygpt_exp.trained import load_trained

SIZE = ModelConfig(
    num_layers=2, width=32, num_heads=2, context=16, batch_tokens=64, budget_tokens=64
)
WORDS = "the river ran over the hill and the movie ran over the river, it's 1999! "
BPE = train_bpe(400, [WORDS * 5, "caf\u00e9 \u6c34\u6c34"])
BYTES = train_bpe(257, [])
TEXTS = [
    WORDS,
    "",
    "x",
    WORDS + "\u6c34 \U0001f600",
    f"a {END_OF_TEXT} b",
    "caf\u00e9\r\n\n" * 4,
    WORDS[:20],
]


def small_model(option: str = "modern", tokenizer: TextTokenizer = BPE) -> Decoder:
    """A small model whose weights are far from where they start."""
    torch.manual_seed(1)
    model = build_model(SIZE, architecture(option), tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


MODEL = small_model()


def nats_one_by_one(model: Decoder, tokens: Sequence[int], stride: int) -> float:
    """Nats of tokens behind the first, each by a call of its own with what it may see."""
    nats, scored, width = 0.0, 1, SIZE.context
    while scored < len(tokens):
        end = min(scored + width, len(tokens))
        for target in range(scored, end):
            seen = torch.tensor([tokens[max(0, end - 1 - SIZE.context) : target]])
            logits = model.logits(model.hidden(seen)[0, -1]).double()
            nats -= float(logits.log_softmax(-1)[tokens[target]])
        scored, width = end, stride
    return nats


class TestWindows:
    """What is scored, and from what."""

    @given(st.integers(2, 90), st.integers(1, 9), st.data())
    def test_every_token_is_scored_once(
        self, num_tokens: int, context: int, data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(1, num_tokens))
        stride = data.draw(st.integers(1, context))
        found = list(windows(num_tokens, first, context, stride))
        places = [place for window in found for place in range(window.scored, window.end)]
        assert places == list(range(first, num_tokens))
        for window in found:
            assert 0 <= window.start < window.scored
            assert window.num_inputs <= context
            assert window.num_inputs == context or window.start == 0

    def test_are_those_of_the_evaluation_harness(self) -> None:
        # its own example: ten tokens behind a prefix, a context of four
        found = list(windows(11, 1, 4, 4))
        assert [(w.start, w.end - 1, w.scored, w.end) for w in found] == [
            (0, 4, 1, 5),
            (4, 8, 5, 9),
            (6, 10, 9, 11),
        ]

    def test_stride_gives_context(self) -> None:
        found = list(windows(17, 1, 8, 2))
        assert [w.end - w.scored for w in found] == [8, 2, 2, 2, 2]
        assert all(w.scored - w.start >= 7 for w in found[1:])

    @given(st.integers(1, 600))
    def test_padding_is_less_than_half(self, num_inputs: int) -> None:
        length = padded_length(num_inputs, 600)
        assert num_inputs <= length <= min(600, 2 * num_inputs)


class TestScores:
    """Nats of a text."""

    @pytest.mark.parametrize("stride", [None, 5])
    @pytest.mark.parametrize("option", ["modern", "llama", "gpt2", "eir"])
    def test_are_those_of_one_token_at_a_time(self, option: str, stride: int | None) -> None:
        model = small_model(option)
        tokens = [BPE.end_of_text, *BPE.encode(WORDS)[:25]]
        (found,) = score(model, [Passage(tokens, 1)], stride=stride)
        with torch.no_grad():
            nats = nats_one_by_one(model, tokens, stride or SIZE.context)
        assert found.nats == pytest.approx(nats, rel=1e-5)
        assert found.num_tokens == len(tokens) - 1

    @pytest.mark.parametrize("stride", [16, 5])
    def test_do_not_depend_on_the_batch(self, stride: int) -> None:
        found = [evaluate(MODEL, BPE, [TEXTS], batch=batch, stride=stride) for batch in (1, 3, 64)]
        for other in found[1:]:
            assert other.nats == pytest.approx(found[0].nats, rel=1e-7)
            assert other.num_targets == found[0].num_targets

    def test_do_not_depend_on_the_neighbours(self) -> None:
        alone = [evaluate(MODEL, BPE, [[text]]).nats for text in TEXTS]
        together = evaluate(MODEL, BPE, [TEXTS[:3], TEXTS[3:]])
        assert together.nats == pytest.approx(math.fsum(alone), rel=1e-7)

    def test_more_context_changes_later_windows_only(self) -> None:
        short, long = Passage(list(range(17)), 1), Passage(list(range(60)), 1)
        assert score(MODEL, [short], stride=2) == score(MODEL, [short])
        assert score(MODEL, [long], stride=2) != score(MODEL, [long])

    def test_bf16_is_close(self) -> None:
        exact, rough = (evaluate(MODEL, BPE, [TEXTS], precision=p) for p in ("fp32", "bf16"))  # type: ignore[arg-type]
        assert rough.nats != exact.nats
        assert rough.nats == pytest.approx(exact.nats, rel=0.02)

    @pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])
    def test_count_every_byte_once(self, tokenizer: TextTokenizer) -> None:
        found = evaluate(small_model(tokenizer=tokenizer), tokenizer, [TEXTS])
        sizes = tokenizer.token_sizes("")
        tokens = [token for text in tokenizer.encode_all(TEXTS) for token in text]
        assert found.text_bytes == sum(len(text.encode()) for text in TEXTS)
        assert found.text_bytes == sum(sizes[token] for token in tokens)
        assert found.num_targets == len(tokens)

    def test_spelling_of_the_end_of_text_is_text(self) -> None:
        tokens = BPE.encode(END_OF_TEXT)
        assert BPE.end_of_text not in tokens
        assert BPE.decode(tokens) == END_OF_TEXT


class TestLikelihoods:
    """What lm-eval asks for."""

    def test_context_and_continuation_make_up_the_text(self) -> None:
        context, rest = WORDS[:13], WORDS[13:40]
        (whole,) = loglikelihood_rolling(MODEL, BPE, [context + rest])
        (start, _), (end, _) = loglikelihood(MODEL, BPE, [("", context), (context, rest)])
        assert len(BPE.encode(context + rest)) <= SIZE.context
        assert start + end == pytest.approx(whole, rel=1e-6)

    def test_space_belongs_to_the_continuation(self) -> None:
        pairs = [("the river ", "ran"), ("the river", " ran")]
        first, second = loglikelihood(MODEL, BPE, pairs)
        assert first == second

    def test_batch_does_not_matter(self) -> None:
        pairs = [(text, WORDS[:n]) for text in TEXTS for n in (1, 60)]
        one, many = (loglikelihood(MODEL, BPE, pairs, batch=batch) for batch in (1, 8))
        assert [a for a, _ in one] == pytest.approx([a for a, _ in many], rel=1e-6)
        assert [a for _, a in one] == [a for _, a in many]

    def test_greedy_is_told(self) -> None:
        tokens = [BPE.end_of_text, *BPE.encode("the river ran")]
        with torch.no_grad():
            best = int(MODEL.logits(MODEL.hidden(torch.tensor([tokens]))[0, -1]).argmax())
        greedy, other = score(MODEL, [Passage([*tokens, t], len(tokens)) for t in (best, 3)])
        assert greedy.is_greedy
        assert not other.is_greedy
        assert greedy.nats < other.nats

    def test_long_context_loses_its_left_end(self) -> None:
        pairs = [(WORDS * times, "river") for times in (2, 4)]
        short, long = loglikelihood(MODEL, BPE, pairs)
        assert short == long

    def test_nothing_is_certain(self) -> None:
        assert loglikelihood(MODEL, BPE, [("the", ""), ("", "")]) == [(0.0, True)] * 2
        assert loglikelihood_rolling(MODEL, BPE, [""]) == [0.0]


class TestCommand:
    """`python -m babygpt_exp.evaluate`."""

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def figures(
        self, capsys: pytest.CaptureFixture[str], *arguments: str | Path
    ) -> dict[str, float]:
        main([str(argument) for argument in arguments])
        (line,) = capsys.readouterr().out.splitlines()
        found: dict[str, float] = json.loads(line)
        assert list(found) == ["bits_per_byte", "loss", "tokens", "bytes"]
        return found

    def error(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        (line,) = capsys.readouterr().err.splitlines()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, line

    def test_formats_hold_the_same_documents(
        self, tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        texts = [WORDS * 20, "short\n", f"with {END_OF_TEXT} inside, caf\u00e9"]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "a.jsonl").write_text(lines)
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        pq.write_table(pa.table({"body": texts}), tmp_path / "a.parquet", row_group_size=2)
        files = []
        for number, text in enumerate(texts):
            files.append(tmp_path / f"{number}.txt")
            files[-1].write_bytes(text.encode())
        folder = tiny_run.folder
        expected = self.figures(capsys, folder, "--text", *files)
        for arguments in (["a.jsonl"], ["a.jsonl.gz"], ["a.parquet", "--column", "body"]):
            name, *rest = arguments
            found = self.figures(capsys, folder, "--text", tmp_path / name, *rest)
            assert found == pytest.approx(expected, rel=1e-7)
        assert expected["bytes"] == sum(len(text.encode()) for text in texts)
        nats = expected["loss"] * expected["tokens"]
        assert expected["bits_per_byte"] == pytest.approx(
            nats / math.log(2) / expected["bytes"], rel=1e-12
        )
        strided = self.figures(
            capsys, folder / "checkpoints/best.ckpt", "--text", *files, "--stride", "16"
        )
        assert strided["tokens"] == expected["tokens"]
        assert strided["loss"] != expected["loss"]

    def test_text_file_is_one_document(
        self, tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (WORDS * 9 + "\n\n") * 9  # cut into documents in training
        (tmp_path / "a.txt").write_text(text)
        found = self.figures(capsys, tiny_run.folder, "--text", tmp_path / "a.txt")
        trained = load_trained(tiny_run.folder)
        expected = evaluate(trained.model, trained.tokenizer, [[text]])
        assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-7)
        assert found["bytes"] == len(text)

    def test_says_what_is_wrong_in_a_line(
        self, tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, file = tiny_run.folder, tmp_path / "a.txt"
        file.write_text("text")
        (tmp_path / "a.jsonl").write_text('{"body": "text"}\n')
        (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
        assert self.error(capsys, folder) == (
            2,
            "one of the arguments --text --tasks is required "
            "(see python -m babygpt_exp.evaluate --help)",
        )
        for code, part, arguments in (
            (2, "--stride 65 must be between 1 and", ["--text", file, "--stride", "65"]),
            (2, "--stride 0 must be between 1 and", ["--text", file, "--stride", "0"]),
            (2, "--batch must be at least 1", ["--text", file, "--batch", "0"]),
            (2, "--task-folder has no effect", ["--text", file, "--task-folder", "x"]),
            (2, "--stride has no effect", ["--tasks", "x", "--stride", "9"]),
            (1, "nothere.txt", ["--text", tmp_path / "nothere.txt"]),
            (1, "has no field 'text'", ["--text", tmp_path / "a.jsonl"]),
            (1, "there is no text in", ["--text", tmp_path / "b.jsonl"]),
        ):
            found, line = self.error(capsys, folder, *arguments)
            assert (found, part in line) == (code, True), line
        assert self.error(capsys, tmp_path / "none", "--text", file)[0] == 2
