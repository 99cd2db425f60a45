"""The account at Weights & Biases: a key, or one line that says how to do without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import wandb

from babygpt_exp.errors import ConfigError, UserError, one_line


def check_key(otherwise: str = "or train with WANDB_MODE=offline and 'wandb sync' later") -> None:
    """Refuse to go on without a key that W&B takes; `otherwise` is what to do without one.

    Never asks the user, and the server only where there is a key; wandb bounds that wait.
    """
    try:
        with quiet():
            has_key = wandb.login(prompt=False)
    except (wandb.errors.Error, ValueError) as error:
        reason = one_line(error).rstrip(".")
        raise UserError(f"W&B did not take the key: {reason}; {otherwise}") from error
    if not has_key:
        raise ConfigError(f"W&B needs a key: set WANDB_API_KEY or run 'wandb login', {otherwise}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep wandb's own messages off the terminal."""
    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_SILENT"]
        else:
            os.environ["WANDB_SILENT"] = before
