"""Runs and sweeps of the documents, made small: tests/documented_runs.py types them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from documented_desk import Desk
from experiment_harness import QUIET
from omegaconf import OmegaConf

SMALL = (*QUIET, "run.max_tokens=4096")
"""Four steps of a very small model, without W&B."""
KEYS = {word.partition("=")[0] for word in SMALL}
BUDGET = re.compile(r"(run\.(max|batch|eval)_tokens|hydra\.sweeper\.n_trials)=")
"""What a command may set itself, and is set small here."""
SEVERAL = re.compile(r"[\w./@+]+=[^\[({'\",]+(,[^\[({'\",]+)+")
"""A key that is swept over."""


def option(words: Sequence[str], name: str) -> str | None:
    """What NAME=... is set to."""
    return next((w.partition("=")[2] for w in words if w.startswith(f"{name}=")), None)


def made_small(desk: Desk, words: Sequence[str]) -> list[str]:
    """The arguments of a run, and those of a tiny run that it does not set itself."""
    if any(word.startswith("--") for word in words):
        return list(words)
    if option(words, "resume"):
        return [*(word for word in words if not BUDGET.match(word)), "run.max_tokens=18432"]
    preset = preset_of(desk, words)
    is_search = "hydra/sweeper=optuna" in words or "/hydra/sweeper: optuna" in preset
    kept = [word for word in fewer_jobs(words, 1 if is_search else 2) if not BUDGET.match(word)]
    kept += fewer_of_preset(desk, preset, kept)
    own = {word.partition("=")[0] for word in kept}
    if option(words, "init_from"):  # model and tokenizer are those of the other run
        own |= {key for key in KEYS if key.startswith(("model", "tokenizer"))}
    if option(kept, "tokenizer") in ("bytes", "file"):  # nothing is trained
        own |= {key for key in KEYS if key.startswith("tokenizer.")}
    if is_search:
        kept.append("hydra.sweeper.n_trials=2")
    return kept + [word for word in SMALL if word.partition("=")[0] not in own]


def fewer_jobs(words: Sequence[str], most: int) -> Iterator[str]:
    """The first key of a sweep keeps so many of its values, each other one."""
    for word in words:
        if SEVERAL.fullmatch(word):
            key, _, values = word.partition("=")
            word, most = f"{key}={','.join(values.split(',')[:most])}", 1
        yield word


def preset_of(desk: Desk, words: Sequence[str]) -> str:
    """The file of `experiment=...`; empty where there is none."""
    path = desk.tree / "conf" / "experiment" / f"{option(words, 'experiment')}.yaml"
    return path.read_text() if path.exists() else ""


def fewer_of_preset(desk: Desk, preset: str, words: Sequence[str]) -> Iterator[str]:
    """Of the keys that a preset sweeps over, as of a sweep that is typed."""
    params = OmegaConf.select(OmegaConf.create(preset), "hydra.sweeper.params", default={})
    typed = []
    for key, values in params.items():
        if str(values) == "glob(*)":
            files = (desk.tree / "conf" / str(key)).glob("*.yaml")
            values = ",".join(sorted(file.stem for file in files))
        if option(words, str(key)) is None and "(" not in str(values):
            typed.append(f"{key}={values}")
    yield from fewer_jobs(typed, 2)
