"""The models: sizes and architectures, and `build_model` that joins them."""

from __future__ import annotations

from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.gpt2 import GPT2, GPT2Config
from babygpt_exp.model.modern import Modern, ModernConfig
from babygpt_exp.model.parts import IGNORE, Cache, Decoder

ARCHITECTURES: dict[str, type[ArchConfig]] = {"modern": ModernConfig, "gpt2": GPT2Config}
"""The dataclass of each option of group `arch`."""


def build_model(model: ModelConfig, arch: ArchConfig, vocab_size: int) -> Decoder:
    """The model of a size and an architecture, freshly initialized from torch's global seed."""
    if isinstance(arch, ModernConfig):
        return Modern(model, arch, vocab_size)
    if isinstance(arch, GPT2Config):
        return GPT2(model, arch, vocab_size)
    raise TypeError(f"no model for {type(arch).__name__}")


__all__ = [
    "ARCHITECTURES",
    "IGNORE",
    "ArchConfig",
    "Cache",
    "Decoder",
    "ModelConfig",
    "build_model",
]
