"""A run that is killed and goes on is the run that was never killed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import (
    REPOSITORY,
    TINY,
    Outcome,
    of_type,
    read_rows,
    read_summary,
    read_wandb,
    run_all,
)
from forked_processes import Death
from omegaconf import OmegaConf
from sweep_harness import learned

from babygpt_exp.callbacks.resume import without_torn_round
from babygpt_exp.cli import main
from babygpt_exp.folder import RunFolder, locked
from babygpt_exp.resume import MAY_CHANGE
from babygpt_exp.saved import damage, read_run
from babygpt_exp.tracking.history import (
    COLUMNS,
    History,
    Sample,
    csv_text,
    jsonl_text,
    read_history,
)

pytestmark = pytest.mark.slow

CORPUS = REPOSITORY / "babygpt_exp" / "corpus" / "sample.parquet"

UNEVEN = (
    *TINY,
    "data=local",
    f"data.source={CORPUS}",
    "hardware.micro_batch_tokens=512",  # two parts a step
    "run.log_every_tokens=3072",
    "run.checkpoint_every_tokens=2048",
    "run.eval_every_tokens=4096",
    "run.sample_every_tokens=4096",
)
"""Sixteen steps: a checkpoint each second, a row each third, samples and validation each fourth."""
STEPS = ["3", "4", "6", "8", "9", "12", "12", "15", "16", "16"]
"""Steps of its rows."""

MODULE = "babygpt_exp.module:GPTModule"
CHECKPOINTS = "babygpt_exp.callbacks.checkpoints"


@pytest.fixture(scope="module")
def undisturbed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happens to, and a copy of which goes on for longer."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    ends = run_all([([*UNEVEN, "hydra.run.dir=run"], None)], cwd=cwd, env=environment)
    assert [end.exit_code for end in ends] == [0], ends
    return cwd / "run"


class Disturbed:
    """A run that ends early, again and again, and what was said each time."""

    def __init__(self, cwd: Path, ends: dict[str, Outcome]) -> None:
        self.folder, self.ends = cwd / "run", ends


DEATHS = {
    "before any checkpoint": Death(f"{MODULE}.training_step", 3),
    "in the first checkpoint": Death(f"{CHECKPOINTS}:sync", 1),
    "between two names of checkpoints": Death(f"{CHECKPOINTS}:copy_whole", 1),
    "in a validation": Death(f"{MODULE}.validation_step", 2),
    "in the samples": Death("babygpt_exp.callbacks.samples:generate", 2),
    "by SIGTERM in a part of a step": Death(f"{MODULE}.training_step", 3, signal.SIGTERM),
    "by SIGTERM in a long step": Death(f"{MODULE}.training_step", 4, signal.SIGTERM, 120),
    "in the last validation": Death("babygpt_exp.callbacks.metrics:Metrics.draw_curve", 1),
}
"""Where the run dies, in turn; the calls count from where it goes on."""


@pytest.fixture(scope="module")
def disturbed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """The same run, killed in many places, resumed each time and run to its end at last."""
    cwd = tmp_path_factory.mktemp("disturbed")
    deaths: dict[str, Death | None] = {**DEATHS, "never": None}
    ends = run_all(list(zip(typed(), deaths.values(), strict=True)), cwd=cwd, env=environment)
    return Disturbed(cwd, dict(zip(deaths, ends, strict=True)))


def typed() -> list[list[str]]:
    """What is typed in turn; only the first and the last are logged to W&B, which starts slowly."""
    without = [["resume=run", "logger=none"]] * (len(DEATHS) - 1)
    return [[*UNEVEN, "hydra.run.dir=run"], *without, ["resume=run", "logger=wandb"]]


def load(folder: Path, name: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return checkpoint


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of nested values, by their place."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from tensors(item, f"{path}/{key}")


class TestDisturbed:
    """Eight deaths in one run."""

    def test_died_where_it_should(self, disturbed: Disturbed) -> None:
        codes = [end.exit_code for end in disturbed.ends.values()]
        assert codes == [-9, -9, -9, -9, -9, 143, 143, -9, 0], disturbed.ends

    def test_goes_on_from_the_newest_checkpoint(self, disturbed: Disturbed) -> None:
        said = [
            next((int(w) for w in end.output.partition("going on after step ")[2].split()[:1]), 0)
            for end in disturbed.ends.values()
        ]
        assert said == [0, 0, 0, 2, 4, 12, 13, 14, 16], disturbed.ends
        for name in ("in the first checkpoint", "between two names of checkpoints"):
            assert "no checkpoint yet" in disturbed.ends[name].output

    def test_rows_are_those_of_the_undisturbed_run(
        self, disturbed: Disturbed, undisturbed: Path
    ) -> None:
        assert learned(disturbed.folder) == learned(undisturbed)
        assert [row["step"] for row in learned(undisturbed)] == STEPS

    def test_time_goes_on(self, disturbed: Disturbed) -> None:
        seconds = [float(row["seconds"]) for row in read_rows(disturbed.folder)]
        assert seconds == sorted(seconds)
        assert read_summary(disturbed.folder)["seconds"] >= seconds[-1]

    def test_samples_and_curve(self, disturbed: Disturbed, undisturbed: Path) -> None:
        for name in ("samples.jsonl", "tokenizer.json", "config.yaml", "training_curve.svg"):
            assert (disturbed.folder / name).read_bytes() == (undisturbed / name).read_bytes()

    @pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
    def test_checkpoints_are_equal(
        self, disturbed: Disturbed, undisturbed: Path, name: str
    ) -> None:
        one, two = load(disturbed.folder, name), load(undisturbed, name)
        ours, theirs = dict(tensors(one)), dict(tensors(two))
        assert ours.keys() == theirs.keys()
        assert len(ours) > 15  # weights, momenta, random state
        for place, tensor in ours.items():
            assert torch.equal(tensor, theirs[place]), place
        assert one["StreamDataModule"] == two["StreamDataModule"]
        assert one["lr_schedulers"] == two["lr_schedulers"]
        for key in ("tokenizer", "tokens", "loss_sum", "loss_targets"):
            assert one["babygpt"][key] == two["babygpt"][key]

    def test_summary(self, disturbed: Disturbed, undisturbed: Path) -> None:
        ours, theirs = read_summary(disturbed.folder), read_summary(undisturbed)
        measured = ("seconds", "tokens_per_s", "mfu", "overrides", "run_id", "distinct")
        for key in ours.keys() - measured:
            assert ours[key] == theirs[key], key
        assert ours["status"] == "completed"
        words: list[str] = []
        for more in typed():  # what is typed again says nothing new
            words += [word for word in more if word not in words]
        assert ours["overrides"] == [word for word in words if not word.startswith("hydra.")]

    def test_leaves_the_names_of_any_run(self, disturbed: Disturbed, undisturbed: Path) -> None:
        for place in (".", "checkpoints"):
            names = {path.name for path in (disturbed.folder / place).iterdir()}
            assert names == {path.name for path in (undisturbed / place).iterdir()}

    def test_signal_saves_the_whole_steps(self, disturbed: Disturbed) -> None:
        for step, name in ((13, "in a part of a step"), (14, "in a long step")):
            line = disturbed.ends[f"by SIGTERM {name}"].errors.splitlines()[-1]
            assert line.startswith(f"error: stopped by SIGTERM after step {step}, saved in ")

    def test_wandb_has_one_id_and_the_last_log_has_all(
        self, disturbed: Disturbed, environment: dict[str, str]
    ) -> None:
        logs = sorted(disturbed.folder.glob("wandb/offline-run-*/run-*.wandb"))
        assert len(logs) == 2
        assert len({log.name for log in logs}) == 1
        newest = max(logs, key=lambda log: log.stat().st_mtime)
        records = read_wandb(newest, environment)
        history = [record["item"] for record in of_type(records, "history")]
        steps = [item["_step"] for item in history]
        assert steps == list(range(len(steps)))
        logged = [{k: v for k, v in item.items() if k in COLUMNS} for item in history]
        ours = [{k: float(v) for k, v in r.items() if v} for r in read_rows(disturbed.folder)]
        assert [row for row in logged if len(row) > 1] == ours


class TestGoingOn:
    """What else can be typed."""

    @pytest.fixture
    def copy(self, undisturbed: Path, tmp_path: Path) -> Path:
        """A finished run to be changed."""
        return Path(shutil.copytree(undisturbed, tmp_path / "run"))

    def refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2
    ) -> str:
        """The one line that `resume=` ends with; asserts that nothing in the folder changed."""
        before = contents(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["babygpt", f"resume={folder}", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
        assert end.value.code == code
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert contents(folder) == before
        return line

    def test_complete_run_is_left_alone(
        self, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(copy)
        monkeypatch.setattr("sys.argv", ["babygpt", f"resume={copy}", "logger=none"])
        main()
        (line,) = capsys.readouterr().out.splitlines()
        assert "is complete at step 16" in line
        assert contents(copy) == before

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            (["model.width=128"], "model.width=128 (the run has 64)"),
            (["model=baby"], "model.num_layers=4"),
            (["arch=gpt2"], "arch.name=gpt2"),
            (["tokenizer.vocab_size=600"], "tokenizer.vocab_size=600"),
            (["tokenizer=bytes"], "tokenizer.name=bytes"),
            (["seed=2"], "seed=2"),
            (["data.seed=2", "run.max_tokens=32768"], "data.seed=2"),
            (["data.shuffle_shards=1"], "data.shuffle_shards=1"),
            (["optimizer=adamw"], "optimizer.name=adamw"),
            (["run.batch_tokens=2048"], "run.batch_tokens=2048"),
            (["precision=bf16-mixed"], "precision.name=bf16-mixed"),
            (["experiment=smoke"], "experiment="),
            (["-m"], "one run"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_what_may_not_change(
        self, copy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], field: str
    ) -> None:
        assert field in self.refused(copy, capsys, *arguments)

    def test_every_key_of_the_list_exists(self, undisturbed: Path) -> None:
        from babygpt_exp.explain import known_keys

        keys = set(known_keys())
        assert {key.removesuffix(".") for key in MAY_CHANGE} <= keys

    def test_other_tokenizer(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tokenizer = copy / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text() + "\n")
        line = self.refused(copy, capsys, "run.max_tokens=32768")
        assert f"{tokenizer} is not the tokenizer" in line

    def test_no_checkpoint_is_whole(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for path in copy.glob("checkpoints/*"):
            spoil(path)
        assert "last.ckpt is damaged" in self.refused(copy, capsys, code=1)

    def test_run_that_is_going_on(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with locked(copy, print):
            assert f"{copy} is in use" in self.refused(copy, capsys, code=1)

    def test_folder_without_a_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no run" in self.refused(tmp_path, capsys)

    def test_other_text_then_a_longer_budget_from_the_checkpoint_before(
        self, copy: Path, environment: dict[str, str], tmp_path: Path
    ) -> None:
        spoil(copy / "checkpoints" / "last.ckpt")
        (copy / "checkpoints" / "best.ckpt").unlink()
        before = contents(copy)
        other = tmp_path / "other.parquet"
        pq.write_table(pq.read_table(CORPUS).slice(1), other)
        changes = ["run.max_tokens=20480", "hardware.micro_batch_tokens=1024", "logger=none"]
        go_on = [f"resume={copy}", *changes]
        refused, done = run_all(
            [
                ([*go_on, f"data.source={other}"], None),
                (go_on, None),
            ],
            cwd=tmp_path,
            env=environment,
        )
        assert refused.exit_code == 2
        assert "sources.0.fingerprint" in refused.errors.splitlines()[-1]
        assert done.exit_code == 0, done.errors
        for words in (
            "last.ckpt is damaged: bad checksum",
            "going on after step 14 of 20, from ",
            "previous.ckpt",
            "changed: run.max_tokens=20480, was 16384",
            "learning rate goes on at 55% of its peak, not at 19%",
        ):
            assert words in done.output
        rows = read_rows(copy)
        steps = [int(row["step"]) for row in rows]
        assert steps == [3, 4, 6, 8, 9, 12, 12, 15, 16, 18, 20, 20]
        kept = before["metrics.csv"].decode().splitlines()[:8]
        assert (copy / "metrics.csv").read_text().splitlines()[:8] == kept
        assert read_summary(copy)["steps"] == 20
        assert OmegaConf.load(copy / "config.yaml").run.max_tokens == 20480
        assert damage(copy / "checkpoints" / "last.ckpt") is None
        assert read_run(copy).step == 20


def test_summary_counts_the_steps_that_are_saved(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Of a run that is stopped between two rows, in a part of a step, and then before the next."""
    deaths = (Death(f"{MODULE}.training_step", call, signal.SIGTERM) for call in (15, 1))
    typed = ([*UNEVEN, "hydra.run.dir=run", "logger=none"], ["resume=run"])
    for arguments, death in zip(typed, deaths, strict=True):
        (end,) = run_all([(arguments, death)], cwd=tmp_path, env=environment)
        assert end.exit_code == 143, end.errors
        summary, saved = read_summary(tmp_path / "run"), load(tmp_path / "run", "last.ckpt")
        assert (summary["steps"], summary["tokens"]) == (7, 7 * 1024)
        assert (saved["global_step"], saved["babygpt"]["tokens"]) == (7, 7 * 1024)
    assert read_rows(tmp_path / "run")[-1]["step"] == "6"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, W&B's apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and "wandb" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def spoil(path: Path) -> None:
    """Change a byte in the middle of a file, under this name only."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


class TestHistory:
    """What files hold up to a step."""

    ROWS = (
        {"step": 1, "tokens": 64, "train/loss": 6.25},
        {"step": 2, "tokens": 128, "train/loss": 0.1 + 0.2},
        {"step": 2, "tokens": 128, "val/loss": 6.0, "val/bpb": 2.5},
        {"step": 3, "tokens": 192, "train/loss": 6.0},
    )
    SAMPLES = tuple(Sample(step, 64 * step, "auto", "a\nb", "\u2028") for step in (1, 2, 3))

    @pytest.fixture
    def folder(self, tmp_path: Path) -> RunFolder:
        folder = RunFolder(tmp_path)
        folder.metrics.write_text(csv_text(self.ROWS, header=True))
        folder.samples.write_text(jsonl_text(self.SAMPLES), encoding="utf-8")
        return folder

    @pytest.mark.parametrize(("step", "num_rows"), [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
    def test_up_to_a_step(self, folder: RunFolder, step: int, num_rows: int) -> None:
        history = read_history(folder, step)
        text = csv_text(self.ROWS, header=True)
        lines = text.splitlines(keepends=True)[: num_rows + 1]
        assert csv_text(history.rows, header=True) == "".join(lines)
        assert history.samples == [s for s in self.SAMPLES if s.step <= step]

    @pytest.mark.parametrize("tail", ["3", "3,192,", "\0\0\0\0", "\0\n", "3,192,0.5\n", "\xff\n"])
    def test_a_tail_that_is_not_whole(self, folder: RunFolder, tail: str) -> None:
        for path in (folder.metrics, folder.samples):
            with path.open("ab") as file:
                file.write(tail.encode("latin-1"))
        history = read_history(folder, 9)
        assert len(history.rows) == len(self.ROWS)
        assert len(history.samples) == len(self.SAMPLES)

    @pytest.mark.parametrize(("num_lines", "kept"), [(0, 0), (1, 0), (3, 0), (4, 4)])
    def test_a_round_of_samples_that_is_not_whole(
        self, undisturbed: Path, num_lines: int, kept: int
    ) -> None:
        saved = read_run(undisturbed)
        samples = [Sample(12, 1, "auto", "a", "b"), *[Sample(16, 2, "auto", "a", "b")] * num_lines]
        history = without_torn_round(History([], samples), saved)
        assert history.samples == samples[: 1 + kept]

    def test_no_files(self, tmp_path: Path) -> None:
        history = read_history(RunFolder(tmp_path), 9)
        assert (history.rows, history.samples) == ([], [])


@pytest.mark.parametrize("part", ["begin", "middle", "end", "cut", "empty"])
def test_damage_is_seen(tmp_path: Path, part: str) -> None:
    path = tmp_path / "some.ckpt"
    torch.save({"weights": torch.arange(4096), "step": 3}, path)
    assert damage(path) is None
    data = bytearray(path.read_bytes())
    if part in ("cut", "empty"):
        data = data[: len(data) - 100 if part == "cut" else 0]
    else:
        data[{"begin": 0, "middle": len(data) // 2, "end": len(data) - 22}[part]] ^= 0x10
    path.write_bytes(data)
    assert damage(path) is not None
