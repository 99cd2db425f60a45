"""The arithmetic of the scripts in tests/peers; the peers themselves are met by hand only."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import TinyRun, architecture

from babygpt_exp.model import ModelConfig, build_model

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import eir
import nanogpt
from checkout import Peer, read_train, their_weights
from scoring import load_model, score, scores, windows

TRAIN_PY = """
import math
betas = None
weight_decay = 1e-1
beta1 = 0.9
beta2 = 0.95
grad_clip = 1.0 # a comment
raise SystemExit("the rest of the file does not run")
def get_lr(it):
    return min_lr + learning_rate * math.cos(0) * it / (lr_decay_iters - warmup_iters)
"""


class TestWindows:
    @pytest.mark.parametrize("num_tokens", [0, 1, 7, 8, 9, 11, 12, 13, 40])
    def test_every_token_counts_once(self, num_tokens: int) -> None:
        counted = [n for _, end, first in windows(num_tokens, 8) for n in range(first, end)]
        assert counted == list(range(num_tokens))

    def test_none_is_longer_than_the_context(self) -> None:
        assert list(windows(15, 8)) == [(0, 8, 0), (4, 12, 8), (7, 15, 12)]


class TestScore:
    def test_a_short_text_is_scored_at_once(self, tiny_run: TinyRun) -> None:
        model, tokenizer = load_model(tiny_run.folder / "checkpoints" / "last.ckpt")
        text = "It was the best of times."
        tokens = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = float(model(tokens[:, :-1], tokens[:, 1:]))
        assert score(model, tokenizer, [text]) == (expected, tokens.size(1) - 1)

    def test_a_long_text_is_scored_whole(self, tiny_run: TinyRun) -> None:
        model, tokenizer = load_model(tiny_run.folder / "checkpoints" / "last.ckpt")
        text = "It was the best of times, it was the worst of times. " * 20
        nats, num_tokens = score(model, tokenizer, [text, text])
        assert num_tokens == 2 * len(tokenizer.encode(text)) > 2 * model.context
        assert 0 < nats < 2 * num_tokens * math.log(tokenizer.vocab_size)

    def test_what_nats_mean(self) -> None:
        found = scores(8 * math.log(2), 2, ["caf\u00e9", "abc"])
        assert found["bits_per_byte"] == pytest.approx(1)
        assert found["bytes_per_token"] == 4
        assert found["nats_per_token"] == pytest.approx(4 * math.log(2))


class TestNanoGPT:
    def test_settings_and_schedule_come_from_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text(TRAIN_PY)
        function, settings = read_train(tmp_path / "train.py")
        assert settings == {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0}
        get_lr = Peer(math, function, settings).schedule(0.5, warmup=2, num_steps=12)
        assert get_lr(4) == pytest.approx(0.05 + 0.5 * 4 / 10)

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text("beta1 = 0.9\n")
        with pytest.raises(SystemExit, match="has no get_lr"):
            read_train(tmp_path / "train.py")

    def test_every_weight_of_ours_has_a_name_of_theirs(self) -> None:
        size = ModelConfig(2, 48, 4, 32, batch_tokens=64, budget_tokens=640)
        model = build_model(size, architecture("gpt2"), 96)
        theirs = their_weights(model)
        head = theirs.pop("lm_head.weight")
        assert head is theirs["transformer.wte.weight"]
        assert sum(w.numel() for w in theirs.values()) == sum(p.numel() for p in model.parameters())
        assert theirs["transformer.h.1.attn.c_attn.weight"].shape == (3 * 48, 48)

    def test_seeds_are_compared_in_pairs(self) -> None:
        ours = [nanogpt.Curve({1: 3.3, 2: 2.02}, 10.0), nanogpt.Curve({1: 3.3, 2: 1.98}, 30.0)]
        theirs = [nanogpt.Curve({1: 3.0, 2: 2.0}, 5.0), nanogpt.Curve({1: 3.0, 2: 2.0}, 5.0, 1.5)]
        found = nanogpt.compare(ours, theirs, warmup=1, batch_tokens=100)
        assert found["difference_percent"] == pytest.approx(0)
        assert found["difference_standard_error"] == pytest.approx(1)
        assert found["largest_difference_percent"] == pytest.approx(0)
        assert [point["tokens"] for point in found["curve"]] == [100, 200]
        assert found["curve"][0]["difference_percent"] == pytest.approx(10)
        assert found["ours"]["tokens_per_s"] == 20
        assert found["holds"]

    @pytest.mark.parametrize(("bits", "spread"), [(2.02, 1.0), (1.98, 1.0), (2.0, 6.0)])
    def test_what_does_not_hold(self, bits: float, spread: float) -> None:
        ours, theirs = nanogpt.Curve({2: bits}, 1.0), nanogpt.Curve({2: 2.0}, 1.0, spread)
        assert not nanogpt.compare([ours], [theirs], warmup=1, batch_tokens=1)["holds"]


class TestEir:
    def test_what_is_held_out_is_not_trained_on(self) -> None:
        documents = [f"document {number}" for number in range(100)]
        rest, held = eir.hold_out(documents)
        assert sorted(rest + held) == sorted(documents)
        assert 0 < len(held) < 20

    def test_pieces_come_from_other_text(self, tmp_path: Path) -> None:
        for name, word in (("train", "a "), ("validation", "b ")):
            texts = [f"{name} {number} " + word * 600 for number in range(9)]
            pq.write_table(pa.table({"text": texts}), tmp_path / name)
        documents, pieces = eir.prepare(tmp_path / "train", tmp_path / "validation")
        assert len(documents) == 9
        assert documents != sorted(documents)
        assert len(pieces) == 18
        assert not [piece for piece in pieces if "a" in piece.split()]
        assert max(len(piece.split()) for piece in pieces) == 512

    def test_the_budget_fills_the_seconds(self) -> None:
        trial = [(1000, 5.0), (1000, 1.0), (1000, 3.0)]
        assert eir.budget(trial, 25.0, 1000) == 11_000
        assert eir.budget(trial, 1.0, 1000) == 2000

    def test_intervals_of_a_run(self, tiny_run: TinyRun) -> None:
        found = eir.intervals(tiny_run.folder)
        assert sum(tokens for tokens, _ in found) == tiny_run.outcome.summary["tokens"]
        assert all(seconds > 0 for _, seconds in found)

    def test_ratios(self) -> None:
        theirs = {"text_bytes_per_s": 1.0, "text_bytes": 10, "tokens_per_s": 2, "bits_per_byte": 4}
        ours = {"text_bytes_per_s": 2.4, "text_bytes": 30, "tokens_per_s": 1, "bits_per_byte": 2}
        found = eir.compare(ours, theirs)
        assert found["ratio_bits_per_byte"] == 0.5
        assert not found["holds"]
        assert eir.compare(ours | {"text_bytes_per_s": 2.5}, theirs)["holds"]
