"""From overrides to a checked config, as for training."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from babygpt_exp.config import Config, load
from babygpt_exp.initial import with_initial_model
from babygpt_exp.options import CONF
from babygpt_exp.resume import with_saved_config


def compose_config(overrides: list[str]) -> Config:
    """The config of a run with these overrides, for commands that do not train.

    Whether this machine can run it is not asked here. Raises what training raises.
    """
    words = with_saved_config(overrides)
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return load_composed(compose("config", words), words)


def load_composed(composed: DictConfig, overrides: list[str]) -> Config:
    """What Hydra has composed of overrides, checked.

    A new run takes the sizes of the model that it starts from; one that goes on has its own.
    """
    if composed.get("resume") is None:
        composed = with_initial_model(composed, overrides)
    return load(composed)
