"""Group `logger`: whether a run is logged to Weights & Biases, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class LoggerConfig:
    """`logger=none`: metrics.csv and samples.jsonl only."""

    name: str
    """The option of group `logger`."""


@dataclass
class WandbConfig(LoggerConfig):
    """`logger=wandb`."""

    mode: Literal["offline", "online", "disabled"]
    """Offline unless WANDB_MODE says otherwise; online needs a key."""
    project: str
    """W&B project."""
    run_name: str | None
    """Name of the run; the overrides that tell it from others if null."""
    group: str | None
    """Group of the run; the sweep's folder if null and in a sweep."""
    tags: list[str]
    """Tags of the run, for filters and colours."""

    def __post_init__(self) -> None:
        problems = [
            f"logger.tags has '{tag}': a tag has 1 to 64 characters"
            for tag in self.tags
            if not 1 <= len(tag) <= 64
        ]
        if not 1 <= len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            problems.append(
                f"logger.project={self.project} must have 1 to 128 characters, "
                "none of them / \\ # ? % :"
            )
        if problems:
            raise ValueError("; ".join(problems))


LOGGERS: dict[str, type[LoggerConfig]] = {"wandb": WandbConfig, "none": LoggerConfig}
"""The dataclass of each option of group `logger`."""
