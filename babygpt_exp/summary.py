"""summary.json: how a run ended, in numbers and in one word."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

STILL_RUNNING = "still running, or killed before it could say why"
"""Error of the first summary: true unless another one is written."""

PACKAGES = ("babygpt-exp", "torch", "lightning", "hydra-core", "tokenizers", "aiohttp", "wandb")
"""Packages whose versions decide a run."""


def versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with `+` if it was changed; None outside."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def first_summary(seed: int | None, overrides: list[str]) -> dict[str, Any]:
    """The summary of a run that has started; true also if it is killed and never writes another."""
    return {
        "status": "interrupted",
        "error": STILL_RUNNING,
        "steps": 0,
        "tokens": 0,
        "seconds": 0.0,
        "final_train_loss": None,
        "final_val_loss": None,
        "final_val_bpb": None,
        "best_val_bpb": None,
        "tokens_per_s": None,
        "mfu": None,
        "flops_per_token": None,
        "parameters": None,
        "tokens_per_parameter": None,
        "git_commit": git_commit(),
        "versions": versions(),
        "overrides": overrides,
        "seed": seed,
    }
