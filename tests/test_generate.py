"""`python -m babygpt_exp.generate`, and reading what a run has left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment_harness import EXPERIMENTS, SECONDS, TinyRun

from babygpt_exp.config import load
from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.folder import RunFolder
from babygpt_exp.generation.cli import main
from babygpt_exp.trained import load_trained, with_new_keys

EXACT = ("--precision", "fp32", "--max-new-tokens", "8")


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    """What `--json` prints."""
    main([*map(str, arguments), *EXACT, "--json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestTrained:
    """`load_trained`."""

    def test_gives_all_that_belongs_together(self, tiny_run: TinyRun) -> None:
        state = torch.get_rng_state()
        trained = load_trained(tiny_run.folder)
        assert torch.equal(torch.get_rng_state(), state)
        assert trained.step == trained.config.run.num_steps == 16
        assert trained.checkpoint == RunFolder(tiny_run.folder).last_checkpoint
        assert trained.tokenizer.vocab_size == trained.model.embedding.num_embeddings == 512
        saved = torch.load(trained.checkpoint, weights_only=True)["state_dict"]
        assert torch.equal(trained.model.lm_head.weight, saved["model.lm_head.weight"])
        assert not any(p.requires_grad for p in trained.model.parameters())

    def test_best_and_files(self, tiny_run: TinyRun) -> None:
        best = RunFolder(tiny_run.folder).best_checkpoint
        for found in (
            load_trained(tiny_run.folder, "best"),
            load_trained(best),
            load_trained(tiny_run.folder, str(best)),
        ):
            assert found.checkpoint == best

    def test_configs_that_are_older_get_what_is_new(self, tiny_run: TinyRun) -> None:
        plain = load_trained(tiny_run.folder).config.plain
        older = {key: value for key, value in plain.items() if key not in ("logger", "sampling")}
        older["sampling"] = {"top_k": 7}
        older["optimizer"] = {"name": "adamw", "lr": 0.5}
        older["arch"] = {"name": "modern"}
        found = with_new_keys(older)
        assert (found.sampling.top_k, found.sampling.num_auto) == (7, 2)
        assert found.model.width == 64
        assert "logger" in found
        assert (found.optimizer.name, found.optimizer.lr) == ("adamw", 0.5)
        assert "weight_decay" in found.optimizer
        with pytest.raises(ConfigError, match="arch"):  # what it lacks decides the weights
            load(found)

    def test_damaged(self, tiny_run: TinyRun, tmp_path: Path) -> None:
        data = bytearray(RunFolder(tiny_run.folder).last_checkpoint.read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "damaged.ckpt").write_bytes(data)
        with pytest.raises(UserError, match=r"damaged\.ckpt is damaged: "):
            load_trained(tmp_path / "damaged.ckpt")

    def test_files_of_others(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match="no checkpoint of babygpt"):
            load_trained(tmp_path / "other.ckpt")
        torch.save({"code": Path("x")}, tmp_path / "code.ckpt")
        with pytest.raises(UserError, match="can not be read"):
            load_trained(tmp_path / "code.ckpt")

    def test_says_which_checkpoints_there_are(self, tiny_run: TinyRun, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no checkpoint is there yet"):
            load_trained(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        shutil.copy(RunFolder(tiny_run.folder).best_checkpoint, tmp_path / "checkpoints")
        with pytest.raises(UserError, match=r"no last\.ckpt; there is: best"):
            load_trained(tmp_path)


class TestGenerate:
    """The command."""

    def test_json(self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
        found = rows(capsys, tiny_run.folder, "--prompt", "The film", "--num-samples", 3)
        assert len(found) == 3
        for row in found:
            assert list(row) == ["text", "tokens", "tokens_per_s", "finish_reason"]
            assert row["finish_reason"] in ("stop", "length")
            assert len(row["tokens"]) == 8 or row["finish_reason"] == "stop"
            assert row["tokens_per_s"] > 0
        assert len({row["text"] for row in found}) == 3

    def test_samples_have_the_next_seeds(
        self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = rows(capsys, tiny_run.folder, "--seed", 5, "--num-samples", 2)
        (second,) = rows(capsys, tiny_run.folder, "--seed", 6)
        assert second["tokens"] == both[1]["tokens"]

    def test_greedy_tokens_are_the_same_without_a_cache(
        self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
    ) -> None:
        greedy = (tiny_run.folder, "--prompt", "The film", "--temperature", 0)
        (cached,) = rows(capsys, *greedy)
        (uncached,) = rows(capsys, *greedy, "--no-cache")
        assert cached["tokens"] == uncached["tokens"]

    def test_plain_text_is_that_of_the_json(
        self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "prompt.txt").write_text("Once upon\na time", encoding="utf-8")
        asked = (str(tiny_run.folder), "--prompt-file", str(tmp_path / "prompt.txt"))
        (row,) = rows(capsys, *asked)
        main([*asked, *EXACT])
        assert capsys.readouterr().out == row["text"] + "\n"
        main([*asked, *EXACT, "--num-samples", "2"])
        lines = capsys.readouterr().out
        assert lines.startswith(f"--- sample 1 of 2, {row['finish_reason']}\n{row['text']}\n---")

    def test_stop_string(self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
        (whole,) = rows(capsys, tiny_run.folder)
        stop = whole["text"][3:5]
        (row,) = rows(capsys, tiny_run.folder, "--stop", stop, "--stop", "no such text")
        assert row["text"] == whole["text"][: whole["text"].index(stop)]
        assert row["finish_reason"] == "stop"

    def test_values_of_the_runs_samples_are_the_defaults(
        self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ("--temperature", 0.8, "--top-k", 50)
        assert [row["tokens"] for row in rows(capsys, tiny_run.folder)] == [
            row["tokens"] for row in rows(capsys, tiny_run.folder, *given)
        ]

    def test_all_options_as_a_process(
        self, tiny_run: TinyRun, environment: dict[str, str], tmp_path: Path
    ) -> None:
        options = (
            "--prompt=A --max-new-tokens=70 --temperature=1 --top-k=40 --top-p=0.9 --min-p=0.01"
        )
        more = "--repetition-penalty=1.1 --seed=3 --precision=bf16 --checkpoint=best --json"
        process = EXPERIMENTS.start(
            "babygpt_exp.generate",
            *(str(tiny_run.folder), *f"{options} {more}".split()),
            cwd=tmp_path,
            env=environment,
            text=True,
        )
        output, errors = process.communicate(SECONDS)
        assert (process.returncode, errors) == (0, "")
        assert 1 <= len(json.loads(output)["tokens"]) <= 70
        assert list(tmp_path.iterdir()) == []


class TestErrors:
    """One line each."""

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ([], "RUN"),
            (["run", "--temperature", "-1"], "temperature=-1.0"),
            (["run", "--temperature", "hot"], "--temperature"),
            (["run", "--top-p", "0"], "top_p=0.0"),
            (["run", "--min-p", "2"], "min_p=2.0"),
            (["run", "--seed", "-1"], "seed=-1"),
            (["run", "--max-new-tokens", "0"], "--max-new-tokens"),
            (["run", "--num-samples", "0"], "--num-samples"),
            (["run", "--stop", ""], "--stop"),
            (["run", "--precision", "fp8"], "--precision"),
            (["run", "--prompt", "a", "--prompt-file", "b"], "--prompt-file"),
            (["run", "--prompt-file", "nowhere.txt"], "nowhere.txt"),
            (["run", "--prompt", "\udcff"], "--prompt"),
            (["run", "--no-cache", "--compile"], "--compile"),
            (["nowhere"], "nowhere"),
        ],
        ids=str,
    )
    def test_usage(
        self, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert word in captured.err

    def test_no_such_checkpoint(
        self, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(tiny_run.folder), "--checkpoint", "worst"])
        assert ended.value.code == 2
        assert "--checkpoint worst is neither a file nor one of: last" in capsys.readouterr().err

    def test_no_compiler(
        self,
        tiny_run: TinyRun,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CXX", raising=False)
        with pytest.raises(SystemExit) as ended:
            main([str(tiny_run.folder), "--compile"])
        assert ended.value.code == 2
        why = "no C++ compiler found; install g++, or leave it out"
        assert capsys.readouterr().err == f"error: --compile can not be had: {why}\n"

    def test_damaged_checkpoint(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "half.ckpt").write_bytes(b"PK half")
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path / "half.ckpt")])
        assert ended.value.code == 1
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'half.ckpt'} is damaged: ")
