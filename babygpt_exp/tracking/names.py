"""Names of runs: an id that no other run has, and a name that says what is special about it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

NUM_ID_SIGNS = 100
"""Longest id; W&B allows 128 signs."""

NUM_WORDS_SIGNS = 60
"""Longest part of an id that says what the run is."""

NUM_NAME_SIGNS = 100
"""Longest name of a run."""


def slug(text: str) -> str:
    """Text as an id: readable, without signs that W&B or a file system refuses."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-")[:NUM_ID_SIGNS]


def new_run_id(distinct: Sequence[str], number: int | None = None) -> str:
    """The id of a run that starts; `number` is that of the job in its sweep.

    What tells it from other runs comes first: `wandb leet` cuts long ids off. The end is
    random, and not the folder: whoever trains in a folder again starts another run.
    """
    parts = [] if number is None else [str(number)]
    readable = slug("-".join([*parts, *distinct]))[:NUM_WORDS_SIGNS].strip("-")
    return f"{readable or 'default'}-{secrets.token_hex(3)}"


def run_name(distinct: Sequence[str]) -> str:
    """The name that W&B shows, as reports do: the overrides that tell the run from others."""
    return " ".join(",".join(distinct).split())[:NUM_NAME_SIGNS] or "default"


def distinct_overrides(overrides: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Those overrides of a job that tell it from others of its sweep.

    `typed` is what the user typed for the whole sweep. What has one value there is the same for
    all; the rest varies, by commas, ranges or a sweeper. The texts may differ: Hydra gives a job
    `hardware.compile=False` where `hardware.compile=false` was typed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    words = [word for word in typed if "=" in word and not word.startswith("-")]
    fixed = {
        override.key_or_group
        for override in parser.parse_overrides(words)
        if not override.is_sweep_override()
    }
    return [word for word in overrides if parser.parse_override(word).key_or_group not in fixed]
