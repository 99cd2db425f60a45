"""FSDP2: a part of each weight in each process, and whole weights in every checkpoint.

A checkpoint is the same file whatever number of processes wrote it, so that any other number can go
on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from babygpt_exp.model import Decoder
from babygpt_exp.parallel.parts import part_like, whole


def shard(model: Decoder, mesh: DeviceMesh) -> None:
    """Spread a model's weights: a layer's are gathered for that layer, the others' for all."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2 with data parallel alone, and checkpoints in one piece."""

    def __init__(self, num_processes: int) -> None:
        super().__init__(
            data_parallel_size=num_processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizer's state to `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on every rank."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return {name: whole(value) for name, value in state.items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole state, on every rank."""
        state = Strategy.optimizer_state(self, optimizer)
        spread: dict[str, Any] = tree_map(whole, state)
        return spread

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The whole file, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each rank takes its part."""
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank takes its part of what has the shape of a weight."""
        Strategy.load_optimizer_state_dict(self, checkpoint)
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[name] = part_like(value, parameter)
