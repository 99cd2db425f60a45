"""The models: sizes and architectures, and `build_model` that joins them."""

from __future__ import annotations

from collections.abc import Callable

from babygpt_exp.model.cache import Cache, Piece, Place, Step, one_run, runs_of
from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.decoder import Decoder
from babygpt_exp.model.eir import EIR, EIRConfig
from babygpt_exp.model.gpt2 import GPT2, GPT2Config
from babygpt_exp.model.llama import Llama, LlamaConfig
from babygpt_exp.model.loss import IGNORE
from babygpt_exp.model.modern import Modern, ModernConfig

ARCHITECTURES: dict[str, type[ArchConfig]] = {
    "modern": ModernConfig,
    "llama": LlamaConfig,
    "gpt2": GPT2Config,
    "eir": EIRConfig,
}
"""The dataclass of each option of group `arch`."""

MODELS: dict[type[ArchConfig], Callable[..., Decoder]] = {
    ModernConfig: Modern,
    LlamaConfig: Llama,
    GPT2Config: GPT2,
    EIRConfig: EIR,
}
"""What each of them makes."""


def build_model(model: ModelConfig, arch: ArchConfig, vocab_size: int) -> Decoder:
    """The model of a size and an architecture, freshly initialized from torch's global seed."""
    return MODELS[type(arch)](model, arch, vocab_size)


__all__ = [
    "ARCHITECTURES",
    "IGNORE",
    "ArchConfig",
    "Cache",
    "Decoder",
    "ModelConfig",
    "Piece",
    "Place",
    "Step",
    "build_model",
    "one_run",
    "runs_of",
]
