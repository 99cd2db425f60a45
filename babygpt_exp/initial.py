"""`init_from=RUN`: a new run that starts from the weights of another one, with its tokenizer.

Model, architecture and tokenizer are that run's, so that nobody has to repeat them; budget, data,
optimizer and schedule are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from babygpt_exp.errors import ConfigError
from babygpt_exp.model import Decoder
from babygpt_exp.resume import flat
from babygpt_exp.tokenizer import TextTokenizer
from babygpt_exp.trained import (
    MODEL_GROUPS,
    find_checkpoint,
    load_weights,
    read_checkpoint,
    tokenizer_of,
)


@dataclass(frozen=True)
class Initial:
    """The checkpoint that a run starts from."""

    file: Path
    """Where it is."""
    state: dict[str, Any]
    """What it holds."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """Its tokenizer."""
        return tokenizer_of(self.state)

    @property
    def words(self) -> str:
        """Where the run starts, for people."""
        return f"{self.file}, step {self.state['global_step']:,}"

    def load_into(self, model: Decoder) -> None:
        """Put its weights into a model."""
        load_weights(model, self.state, self.file)


def read_initial(path: str) -> Initial:
    """The checkpoint of a run's folder, its last one, or the file itself; UserError if there is
    none, or it is damaged."""
    try:
        file = find_checkpoint(Path(path), "last")
    except ConfigError as error:
        raise ConfigError(f"init_from: {error}") from error
    return Initial(file, read_checkpoint(file))


def with_initial_model(composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    """A composed config with the groups of the run that it starts from, if it does from one.

    `typed` are the user's overrides. Raises ConfigError, with the fields named, where they ask for
    another model.
    """
    if not composed.get("init_from"):  # none, or one that `load` asks for
        return composed
    config = read_initial(str(composed.init_from)).state["babygpt"]["config"]
    others = {group: differences(composed, config, group, typed) for group in MODEL_GROUPS}
    if refused := others["model"] + others["arch"]:
        raise ConfigError(
            f"init_from={composed.init_from} decides model and architecture, leave them out: "
            + ", ".join(refused)
        )
    if ignored := others["tokenizer"]:
        words = f"the tokenizer of {composed.init_from} is used, not {', '.join(ignored)}"
        print(f"note: {words}", flush=True)
    found = composed.copy()
    OmegaConf.set_struct(found, False)
    for group in MODEL_GROUPS:
        found[group] = config[group]
    return found


def differences(
    composed: DictConfig, config: dict[str, Any], group: str, typed: Sequence[str]
) -> list[str]:
    """What was typed of a group and is not so in the other run's config, a phrase each."""
    wanted: Any = {group: OmegaConf.to_container(composed[group], resolve=True)}
    old, new = dict(flat({group: config[group]})), dict(flat(wanted))
    names = {word.lstrip("+").partition("=")[0] for word in typed}
    return [
        f"{key}={value} (the run has {old.get(key)})"
        for key, value in new.items()
        if value != old.get(key) and (key in names or group in names)
    ]
