"""Learning-rate schedules: pure functions from progress to a multiplier.

Progress is measured in tokens, so that a schedule does not depend on the batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class ScheduleConfig:
    """Shape of the learning rate over a run; every share is of `run.max_tokens`."""

    name: Literal["wsd", "cosine", "constant"]
    """The option of group `schedule`."""
    warmup: float
    """Share of the run over which the rate rises from 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup={self.warmup} must be at least 0 and below 1")


@dataclass
class DecayingConfig(ScheduleConfig):
    """A schedule that ends low."""

    final: float
    """Multiplier at the end of the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"schedule.final={self.final} must be between 0 and 1")


@dataclass
class WSDConfig(DecayingConfig):
    """Warm-up, stable, warm-down."""

    warmdown: float
    """Share of the run over which the rate falls to `final`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmdown <= 1 - self.warmup:
            raise ValueError(
                f"schedule.warmdown={self.warmdown} must be between 0 and "
                f"1 - schedule.warmup = {1 - self.warmup:g}"
            )


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    "wsd": WSDConfig,
    "cosine": DecayingConfig,
    "constant": ScheduleConfig,
}
"""The dataclass of each option of group `schedule`."""


def multiplier(schedule: ScheduleConfig, progress: float) -> float:
    """What the learning rate is multiplied by after `progress` (0 to 1) of the run."""
    if progress < schedule.warmup:
        return progress / schedule.warmup
    if isinstance(schedule, WSDConfig):
        return warmup_stable_decay(progress, schedule.warmdown, schedule.final)
    if isinstance(schedule, DecayingConfig):
        rest = (progress - schedule.warmup) / (1 - schedule.warmup)
        return cosine(rest, schedule.final)
    return 1.0


def warmup_stable_decay(progress: float, warmdown: float, final: float) -> float:
    """1 until the last `warmdown` of the run, then a line to `final` (arXiv 2404.06395)."""
    if warmdown == 0 or progress < 1 - warmdown:
        return 1.0
    return final + (1 - final) * max(0.0, 1 - progress) / warmdown


def cosine(progress: float, final: float) -> float:
    """Half a cosine from 1 to `final` (https://arxiv.org/abs/1608.03983)."""
    return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
