"""The config that overrides compose, checked as before a run."""

from __future__ import annotations

from hydra import compose, initialize_config_dir

from babygpt_exp.config import Config, load
from babygpt_exp.initial import with_initial_model
from babygpt_exp.options import CONF
from babygpt_exp.resume import with_saved_config


def compose_config(overrides: list[str]) -> Config:
    """The config of a run with these overrides, as typed for training.

    Whether this machine can run it is not asked here. Raises what training raises.
    """
    words = with_saved_config(overrides)
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        composed = compose("config", words)
    if composed.get("resume") is None:
        composed = with_initial_model(composed, words)
    return load(composed)
