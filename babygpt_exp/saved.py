"""What a folder has of a run: its newest whole checkpoint, its config, its summary."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from babygpt_exp.errors import ConfigError, UserError, one_line
from babygpt_exp.folder import RunFolder

if TYPE_CHECKING:
    from babygpt_exp.config import Config
    from babygpt_exp.data.module import StreamDataModule
    from babygpt_exp.tokenizer import TextTokenizer

CHECKPOINT_VERSION = 1
"""Version of what `GPTModule` adds to a checkpoint."""


def plain_config(path: Path) -> dict[str, Any]:
    """A config.yaml as nested values."""
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path} can not be read: {one_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@dataclass(frozen=True)
class SavedRun:
    """What a folder has of a run."""

    folder: RunFolder
    """Where it is."""
    checkpoint: Path | None
    """The newest whole checkpoint; None if there is none yet."""
    step: int
    """Optimizer steps that it has; 0 without one."""
    config: Mapping[str, Any]
    """Config of the checkpoint, or of config.yaml without one."""
    tokenizer: TextTokenizer | None
    """Tokenizer of the checkpoint."""
    stream: Mapping[str, Any] | None
    """Plans and cursor of the checkpoint."""
    summary: Mapping[str, Any]
    """summary.json; empty if it can not be read."""
    damaged: list[str]
    """Checkpoints that are not whole, and why."""

    def is_complete(self, config: Config) -> bool:
        """Whether nothing is left to do for the budget of a config."""
        return self.summary.get("status") == "completed" and self.step >= config.run.num_steps

    def words(self, config: Config) -> str:
        """Where the run goes on, in a line."""
        path, num_steps = self.folder.path, config.run.num_steps
        if self.is_complete(config):
            return (
                f"{path} is complete at step {self.step:,}: nothing to do; "
                f"a run.max_tokens above {config.run.max_tokens} goes on"
            )
        if self.checkpoint is None:
            return f"no checkpoint yet in {path}: starting from the beginning"
        return f"going on after step {self.step:,} of {num_steps:,}, from {self.checkpoint}"

    def check_stream(self, data: StreamDataModule) -> None:
        """Put connected data back to the cursor; ConfigError if the text is not the same, that to
        train on or that to validate on."""
        from streamer.client import StreamError
        from streamer.plan import plan_id

        if self.stream is None:
            return
        data.load_state_dict(dict(self.stream))
        run, context = data.config.run, data.config.model.context
        try:
            data.client.open(
                plan=self.stream["plan"],
                split="train",
                cursor=self.stream["cursor"],
                batch=run.batch_tokens // context,
                rank=data.ranks.rank,
                world=data.ranks.world,
            ).close()
        except StreamError as error:
            raise ConfigError(f"{self.folder.path} can not go on: {error}") from error
        validated = self.stream.get("validation_plan")  # older checkpoints have none
        assert data.validation_plan is not None
        if validated is not None and plan_id(validated) != plan_id(data.validation_plan):
            source = ", ".join(data.config.data.validation_sources)
            raise ConfigError(
                f"{self.folder.path} can not go on: data.validation_source={source} has changed "
                "since, and its losses would be of other text; put it back, or start a new run"
            )


def read_run(path: Path) -> SavedRun:
    """What a folder has of a run, from its newest whole checkpoint.

    Raises UserError if it has checkpoints and none is whole.
    """
    import torch
    from tokenizers import Tokenizer

    from babygpt_exp.tokenizer import TextTokenizer

    folder = RunFolder(path)
    damaged, whole = [], []
    for checkpoint in (
        folder.last_checkpoint,
        folder.previous_checkpoint,
        folder.best_checkpoint,
    ):
        if not checkpoint.exists():
            continue
        if problem := damage(checkpoint):
            damaged.append(f"{checkpoint} is damaged: {problem}")
        else:
            whole.append((checkpoint, torch.load(checkpoint, weights_only=True, mmap=True)))
    if damaged and not whole:
        raise UserError(f"{'; '.join(damaged)}; there is no other: start a new run")
    summary = read_summary(folder)
    if not whole:
        config = plain_config(folder.config)
        return SavedRun(folder, None, 0, config, None, None, summary, damaged)
    newest, state = max(whole, key=lambda found: int(found[1]["global_step"]))
    ours = state["babygpt"]
    if ours["version"] != CHECKPOINT_VERSION:
        raise ConfigError(
            f"{newest} is of version {ours['version']}, this program reads {CHECKPOINT_VERSION}"
        )
    return SavedRun(
        folder=folder,
        checkpoint=newest,
        step=state["global_step"],
        config=ours["config"],
        tokenizer=TextTokenizer(Tokenizer.from_str(ours["tokenizer"]), ours["end_of_text"]),
        stream=state["StreamDataModule"],
        summary=summary,
        damaged=damaged,
    )


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's file, by the CRC-32 of each of its parts; None if nothing.

    torch writes a zip archive, with checksums that it does not look at when it reads.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
    except Exception as error:  # what a damaged archive raises is anything
        return one_line(error)
    return None if part is None else f"bad checksum of {part}"


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """summary.json; empty if it can not be read: nothing but names depends on it."""
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary
