"""How large the parts of a training step are, in bytes, found without computing or holding them.

The model is built of fake tensors, which have shapes and types but no content; what autograd would
keep of a micro-batch is counted as it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from babygpt_exp.config import Config
from babygpt_exp.flops import flops_per_token
from babygpt_exp.hardware import Machine
from babygpt_exp.model import Decoder, build_model
from babygpt_exp.model.loss import CHUNK_POSITIONS
from babygpt_exp.optimizer import MuonConfig, muon_groups
from babygpt_exp.peak import matmul_dtype

CHUNK_COPIES = 8
"""Tensors in float32 as large as a chunk's logits that are there at once, uncompiled: the logits
before and after the cap, the slope, its parts and what is being made of them."""

STEP_COPIES = 3
"""Tensors as large as the largest stack of matrices that a step of Muon needs beside its state:
the stacked gradients, and the iterations in half the bits."""


@dataclass(frozen=True)
class Sizes:
    """A model's training in numbers; all but the first two in bytes."""

    parameters: int
    """Numbers that are learned."""
    flops_per_token: float
    """Arithmetic of forward and backward."""
    weights: int
    """Parameters, and tables that are stored with them."""
    gradients: int
    """One of each parameter."""
    optimizer: int
    """What the optimizer keeps from step to step."""
    activations: int
    """What a micro-batch keeps for its backward pass, uncompiled."""
    logits: int
    """The most that logits and their gradients take at once."""
    step: int
    """What a step of the optimizer needs for a moment."""


def find_sizes(config: Config, machine: Machine, vocab_size: int, micro_batch: int) -> Sizes:
    """The sizes of a config whose micro-batches have so many tokens."""
    dtype = torch.bfloat16 if config.precision.name == "bf16-true" else torch.float32
    with FakeTensorMode(), default_dtype(dtype):
        model = build_model(config.model, config.arch, vocab_size)
        flops = flops_per_token(config.model, model)
        parameters = list(model.parameters())
        numbers = sum(p.numel() for p in parameters)
        weights = sum(value.nbytes for value in model.state_dict().values())
        if getattr(model.lm_head, "weight", None) is model.embedding.weight:
            weights -= model.embedding.weight.nbytes
        kept, largest = optimizer_numbers(config, model)
        rows = micro_batch // config.model.context
        activations = saved_bytes(config, model, rows)
    chunk = micro_batch if machine.accelerator == "gpu" else min(micro_batch, CHUNK_POSITIONS)
    return Sizes(
        parameters=numbers,
        flops_per_token=flops,
        weights=weights,
        gradients=numbers * dtype.itemsize,
        optimizer=kept * dtype.itemsize,
        activations=activations,
        logits=CHUNK_COPIES * chunk * vocab_size * 4,
        step=STEP_COPIES * largest * dtype.itemsize,
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of a type; fake ones can not be converted in a module."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def optimizer_numbers(config: Config, model: Decoder) -> tuple[int, int]:
    """Numbers that the optimizer keeps, and those of the largest stack that it steps at once."""
    if not isinstance(config.optimizer, MuonConfig):
        return 2 * sum(p.numel() for p in model.parameters()), 0
    kept, largest = 0, 0
    for group in muon_groups(config.optimizer, model):
        numbers = sum(p.numel() for p in group["params"])
        kept += numbers * (1 if group["kind"] == "muon" else 2)
        largest = max(largest, numbers if group["kind"] == "muon" else 0)
    return kept, largest


def saved_bytes(config: Config, model: Decoder, rows: int) -> int:
    """Bytes that autograd keeps of `rows` sequences, the model's own weights aside.

    Below the logits: those are never kept. Called with fake tensors on.
    """
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor
        return tensor

    tokens = torch.zeros((rows, config.model.context), dtype=torch.int64)
    is_mixed = config.precision.name.endswith("-mixed")
    dtype = matmul_dtype(config.precision) if is_mixed else torch.bfloat16
    with (
        torch.autocast("cpu", dtype, enabled=is_mixed),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model.hidden(tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
