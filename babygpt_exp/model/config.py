"""What a model is: its size (group `model`) and what its blocks are made of (group `arch`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ModelConfig:
    """Size of a model, and the budget that a model of this size is usually given."""

    num_layers: int
    """Blocks in series."""
    width: int
    """Channels of the residual stream."""
    num_heads: int
    """Attention heads a block; must divide `width` into even parts."""
    context: int
    """Tokens a model sees at once; also the length of a training block."""
    batch_tokens: int
    """Tokens an optimizer step, the default of `run.batch_tokens`."""
    budget_tokens: int
    """Tokens of a usual run, the default of `run.max_tokens`."""

    def __post_init__(self) -> None:
        problems = [
            f"model.{name}={getattr(self, name)} must be at least 1"
            for name in self.__dataclass_fields__
            if getattr(self, name) < 1
        ]
        if not problems and self.width % self.num_heads:
            problems.append(
                f"model.num_heads={self.num_heads} does not divide model.width={self.width}"
            )
        elif not problems and (self.width // self.num_heads) % 2:
            problems.append(
                f"model.width={self.width} over model.num_heads={self.num_heads} is "
                f"{self.width // self.num_heads} channels a head, which must be even"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def head_width(self) -> int:
        """Channels a head."""
        return self.width // self.num_heads


@dataclass
class ArchConfig:
    """Base of the architectures; each stands beside its model as a subclass."""

    name: str
    """The option of group `arch`."""
