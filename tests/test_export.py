"""Exports: transformers loads them, and gives our logits, our text and our bits a byte."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment_harness import REPOSITORY, TinyRun, architecture
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.errors import ConfigError
from babygpt_exp.evaluation.likelihood import evaluate
from babygpt_exp.export.architectures import refused
from babygpt_exp.export.card import facts
from babygpt_exp.export.cli import main
from babygpt_exp.export.folder import export
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.model import ArchConfig, ModelConfig, build_model
from babygpt_exp.sampling import Settings
from babygpt_exp.trained import Trained, load_trained

pytest.importorskip("safetensors", reason="needs the extra export")
transformers = pytest.importorskip("transformers", reason="needs the extra export")

EXPORTABLE: dict[str, tuple[ArchConfig, int, int, int]] = {
    "modern": (architecture("modern"), 2, 64, 2),
    "modern-tied": (architecture("modern", tied_head=True, softcap=0.0), 1, 48, 3),
    "modern-gelu": (architecture("modern", activation="gelu", rotary_base=300.0), 3, 32, 1),
    "llama": (architecture("llama"), 2, 64, 4),
    "llama-tied": (architecture("llama", tied_head=True, rotary_base=300.0), 1, 48, 3),
    "gpt2": (architecture("gpt2"), 2, 64, 4),
    "gpt2-bias": (architecture("gpt2", bias=True), 1, 48, 3),
}
"""An architecture, and a number of layers, a width and a number of heads for it."""

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
UNSEEN = "\n".join(f"Line {n} of a text that was not trained on, {n * n}." for n in range(60))
PIECES = ["\r\n", "\n", "\0", " ", "the ", "'ll", "12", " .", " n't", "\u00e9", "\u6c34", "\u0301"]
TEXT = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)


@pytest.fixture(scope="module")
def tiny(tiny_run: TinyRun) -> Trained:
    """A tiny run's model."""
    return load_trained(tiny_run.folder)


@pytest.fixture(scope="module")
def make(tiny: Trained) -> Callable[[str], Trained]:
    """Models of EXPORTABLE with the tiny run's tokenizer, and weights that all matter."""

    def made(name: str) -> Trained:
        arch, num_layers, width, num_heads = EXPORTABLE[name]
        size = ModelConfig(num_layers, width, num_heads, 64, 64, 64)
        torch.manual_seed(1)
        model = build_model(size, arch, tiny.tokenizer.vocab_size)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, mean=float(parameter.ndim == 1))
        model.eval().requires_grad_(False)
        return replace(tiny, model=model, config=replace(tiny.config, model=size, arch=arch))

    return made


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer, as transformers has them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


@pytest.mark.parametrize("name", EXPORTABLE)
def test_same_logits_same_text_same_bits(
    name: str, make: Callable[[str], Trained], tmp_path: Path
) -> None:
    trained = make(name)
    export(trained, tmp_path / "model")
    theirs, their_tokenizer = load(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    torch.manual_seed(2)
    tokens = torch.randint(0, trained.tokenizer.vocab_size, (2, 64))
    with torch.no_grad():
        expected = trained.model.logits(trained.model.hidden(tokens))
        found = theirs(tokens).logits
    assert expected.std() > 0.5  # or nothing would be seen
    assert (found - expected).abs().max() < 1e-4
    assert theirs.dtype == torch.float32
    number = sum(parameter.numel() for parameter in trained.model.parameters())
    if name != "gpt2":  # which has biases of zero in their model only
        assert sum(parameter.numel() for parameter in theirs.parameters()) == number
    prompt = [trained.tokenizer.end_of_text, *trained.tokenizer.encode("The movie ")]
    request = Request(tuple(prompt), 24, Settings(temperature=0))
    (ours,) = generate(Engine(trained.model, trained.tokenizer, 1), [request])
    inputs = their_tokenizer(their_tokenizer.bos_token + "The movie ", return_tensors="pt")
    written = theirs.generate(**inputs, max_new_tokens=24)[0, len(prompt) :].tolist()
    assert [t for t in written if t != trained.tokenizer.end_of_text] == ours.tokens


def test_bits_a_byte_agree_on_a_run(
    tiny: Trained,
    tiny_run: TinyRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The script of docs/trained.md, which uses transformers alone, on a model that was trained."""
    folder, file = tmp_path / "models" / "my-model", tmp_path / "unseen.txt"
    file.write_text(UNSEEN)
    main([str(tiny_run.folder), str(folder)])
    assert str(folder) in capsys.readouterr().out
    page = (REPOSITORY / "docs" / "trained.md").read_text()
    (script,) = re.findall(r"```python\n(import math.*?)```", page, re.DOTALL)
    monkeypatch.setattr("sys.argv", ["compare.py", str(folder), str(file)])
    exec(compile(script, "compare.py", "exec"), {})
    theirs = float(capsys.readouterr().out.splitlines()[-1])
    ours = evaluate(tiny.model, tiny.tokenizer, [[UNSEEN]])
    assert ours.num_targets > 5 * tiny.config.model.context
    assert ours.bits_per_byte == pytest.approx(theirs, rel=1e-5)  # a thousandth would do


@pytest.fixture(scope="module")
def folder(tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's export."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export(tiny, folder)
    return folder


class TestFolder:
    """What is written, and when nothing is."""

    def test_tokenizer_is_ours(self, folder: Path, tiny: Trained) -> None:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert theirs.eos_token_id == theirs.bos_token_id == tiny.tokenizer.end_of_text
        assert theirs.model_max_length == tiny.config.model.context
        assert len(theirs) == tiny.tokenizer.vocab_size

        @given(TEXT)
        def agrees(text: str) -> None:
            tokens = tiny.tokenizer.encode(text)
            assert theirs(text, verbose=False).input_ids == tokens
            assert theirs.decode(tokens, skip_special_tokens=True) == text

        agrees()

    def test_card_has_the_numbers(self, folder: Path, tiny_run: TinyRun) -> None:
        card = (folder / "README.md").read_text()
        summary = tiny_run.outcome.summary
        assert f"{summary['final_val_bpb']:.4f} bits a byte" in card
        assert f"{summary['parameters']:,} parameters" in card
        assert f"{16_384:,} tokens, {summary['steps']:,} steps" in card
        assert "data=sample (sample)" in card
        assert str(tiny_run.folder) not in card

    def test_card_leaves_padding_out_and_has_no_losses_of_another_step(
        self, tiny_run: TinyRun, tmp_path: Path
    ) -> None:
        """Of a run that was stopped behind its last validation."""
        stopped = tmp_path / "run"
        shutil.copytree(tiny_run.folder / "checkpoints", stopped / "checkpoints")
        summary = tiny_run.outcome.summary | {"status": "interrupted"}
        (stopped / "summary.json").write_text(json.dumps(summary))
        found = facts(replace(load_trained(stopped), tokens=1_234))
        assert found["trained on"].startswith("1,234 tokens, 16 steps of 1,024")
        assert "validation" not in found

    def test_generation_ends_at_the_end_of_text(self, folder: Path, tiny: Trained) -> None:
        found = json.loads((folder / "generation_config.json").read_text())
        assert found["eos_token_id"] == tiny.tokenizer.end_of_text

    def test_place_must_be_new_or_empty(
        self, folder: Path, tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = sorted(folder.iterdir())
        (tmp_path / "file").write_text("")
        for place, words in ((folder, "is not empty"), (tmp_path / "file", "is a file")):
            with pytest.raises(SystemExit) as stopped:
                main([str(tiny_run.folder), str(place)])
            (line,) = capsys.readouterr().err.splitlines()
            assert stopped.value.code == 2
            assert words in line
        assert sorted(folder.iterdir()) == before
        (tmp_path / "empty").mkdir()
        main([str(tiny_run.folder), str(tmp_path / "empty")])
        assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES

    def test_what_fails_leaves_nothing(
        self, tiny: Trained, tmp_path: Path, small_disk: Callable[[str], Path]
    ) -> None:
        disk = small_disk("64k")
        with pytest.raises(OSError, match="No space left"):
            export(tiny, disk / "model")
        assert not list(disk.iterdir())


@pytest.mark.parametrize(
    ("switch", "arch"),
    [
        ("arch.qk_norm=false", architecture("modern", qk_norm=False)),
        ("arch.embedding_norm=false", architecture("modern", embedding_norm=False)),
        ("arch.activation=swiglu", architecture("modern", activation="swiglu")),
        ("arch.residual_scalars=true", architecture("modern", residual_scalars=True)),
        ("arch.value_embeddings=true", architecture("modern", value_embeddings=True)),
        ("arch=eir", architecture("eir")),
    ],
)
def test_what_has_no_place_is_refused_by_name(
    switch: str, arch: ArchConfig, tiny: Trained, tmp_path: Path
) -> None:
    trained = replace(tiny, config=replace(tiny.config, arch=arch))
    with pytest.raises(ConfigError, match=f"^{re.escape(switch)} can not be exported: "):
        export(trained, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_only_what_has_no_place_is_refused() -> None:
    assert not any(refused(arch) for arch, *_ in EXPORTABLE.values())
    assert not refused(architecture("modern", zero_init=False))
    assert math.isclose(torch.finfo(torch.float32).eps, 2**-23)
