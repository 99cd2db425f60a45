"""A trained model, read from a checkpoint for use: no trainer, no optimizer, no streamer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer

from babygpt_exp.config import Config, load
from babygpt_exp.data.instructions import prompt_tokens, template_of
from babygpt_exp.errors import ConfigError, UserError, one_line
from babygpt_exp.folder import RunFolder
from babygpt_exp.model import Decoder, build_model
from babygpt_exp.options import CONF
from babygpt_exp.saved import CHECKPOINT_VERSION, damage
from babygpt_exp.tokenizer import TextTokenizer
from streamer.sources.template import Template

CHECKPOINTS = ("last", "best", "previous")
"""Names of the checkpoints of a run's folder."""

MODEL_GROUPS = ("model", "arch", "tokenizer")
"""Config groups that decide what the weights compute."""

PREFIX = "model."
"""What Lightning puts before the names of the model's weights."""


@dataclass(frozen=True)
class Trained:
    """A model that was trained, and what belongs to it."""

    model: Decoder
    """With the checkpoint's weights in float32, on the CPU, in evaluation mode."""
    tokenizer: TextTokenizer
    """The tokenizer that it was trained with."""
    config: Config
    """The config of its run."""
    checkpoint: Path
    """The file it comes from."""
    step: int
    """Optimizer steps that it was trained."""
    tokens: int
    """Tokens that it was trained on, prompts included and padding left out."""
    template: Template | None = None
    """The template of the prompts that it was trained to answer; None where it was on text."""

    def prompt_tokens(self, text: str) -> tuple[int, ...]:
        """The tokens that a text to go on from begins with: the end of the text before, and it.

        Of a model that was trained on instructions the text is put into its template.
        """
        return prompt_tokens(self.tokenizer, self.template, text)


def load_trained(path: Path, checkpoint: str = "last") -> Trained:
    """The model of a run's folder or of a checkpoint file.

    Of a folder `checkpoint` chooses the file: a name of CHECKPOINTS, or a path. Raises UserError
    where there is none, or it is damaged: another one is never taken in silence. The global
    random state has no part in it and stays as it is.
    """
    file = find_checkpoint(path, checkpoint)
    state = read_checkpoint(file)
    ours = state["babygpt"]
    tokenizer = tokenizer_of(state)
    try:
        config = load(with_new_keys(ours["config"]))
    except ConfigError as error:
        raise ConfigError(f"{file} is of another version of this program: {error}") from error
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.model, config.arch, tokenizer.vocab_size)
    load_weights(model, state, file)
    model.eval().requires_grad_(False)
    template = template_of(state["StreamDataModule"]["plan"])
    return Trained(
        model, tokenizer, config, file, int(state["global_step"]), int(ours["tokens"]), template
    )


def tokenizer_of(state: Mapping[str, Any]) -> TextTokenizer:
    """The tokenizer of a checkpoint."""
    ours = state["babygpt"]
    return TextTokenizer(Tokenizer.from_str(ours["tokenizer"]), ours["end_of_text"])


def load_weights(model: Decoder, state: Mapping[str, Any], file: Path) -> None:
    """Put a checkpoint's weights into a model of its config; UserError where they do not fit."""
    weights = {
        name.removeprefix(PREFIX): weight
        for name, weight in state["state_dict"].items()
        if name.startswith(PREFIX)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit its config: {one_line(error)}") from error


def with_new_keys(saved: Mapping[str, Any]) -> DictConfig:
    """A saved config, with today's defaults for groups and values that are newer than it.

    What MODEL_GROUPS lack is for `load` to name: today's default may not be what was trained.
    """
    names = {
        group: values["name"]
        for group, values in saved.items()
        if isinstance(values, Mapping) and "name" in values and group not in MODEL_GROUPS
    }
    known = {group for group, name in names.items() if (CONF / group / f"{name}.yaml").is_file()}
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        composed = compose("config", overrides=[f"{group}={names[group]}" for group in known])
    defaults: Any = OmegaConf.to_container(composed)
    for group in ("run", "sampling", *known):
        if group in saved:
            defaults[group] |= saved[group]
    rest = {key: value for key, value in saved.items() if key not in ("run", "sampling", *known)}
    found: DictConfig = OmegaConf.create(defaults | rest)
    return found


def find_checkpoint(path: Path, checkpoint: str) -> Path:
    """The checkpoint file that a RUN and a choice mean."""
    if not path.exists():
        raise ConfigError(f"there is no run or checkpoint at {path}")
    if path.is_file():
        if checkpoint not in ("last", path.name, str(path)):
            raise ConfigError(f"{path} is a checkpoint itself: leave --checkpoint out")
        return path
    if checkpoint not in CHECKPOINTS:
        file = Path(checkpoint)
        if not file.is_file():
            raise ConfigError(
                f"--checkpoint {checkpoint} is neither a file nor one of: {', '.join(CHECKPOINTS)}"
            )
        return file
    folder = RunFolder(path).checkpoints
    file = folder / f"{checkpoint}.ckpt"
    if not file.is_file():
        there = [name for name in CHECKPOINTS if (folder / f"{name}.ckpt").is_file()]
        hint = f"there is: {', '.join(there)}" if there else "no checkpoint is there yet"
        raise ConfigError(f"{path} has no {checkpoint}.ckpt; {hint}")
    return file


def read_checkpoint(file: Path) -> dict[str, Any]:
    """All that a checkpoint holds; UserError if it is damaged or none of ours."""
    if problem := damage(file):
        raise UserError(f"{file} is damaged: {problem}; take another checkpoint")
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"{file} can not be read: {one_line(error)}") from error
    ours = state.get("babygpt") if isinstance(state, dict) else None
    if not isinstance(ours, dict):
        raise UserError(f"{file} is no checkpoint of babygpt")
    if ours.get("version") != CHECKPOINT_VERSION:
        raise ConfigError(
            f"{file} is of version {ours.get('version')}, this program reads {CHECKPOINT_VERSION}"
        )
    found: dict[str, Any] = state
    return found
