"""The optimizers: fused AdamW, and Muon for hidden matrices with AdamW for the rest.

Muon takes the momentum of a matrix and steps along the nearest orthogonal matrix to it
(https://kellerjordan.github.io/posts/muon/), found by a few Newton-Schulz iterations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from babygpt_exp.errors import ConfigError
from babygpt_exp.model import Decoder
from babygpt_exp.parallel.parts import own_part, part_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that pushes singular values towards 1 (the post above)."""


@dataclass
class OptimizerConfig:
    """`optimizer=adamw`, AdamW for everything; and what every optimizer has."""

    name: Literal["muon", "adamw"]
    """The option of group `optimizer`."""
    lr: float
    """Peak learning rate: of all parameters with AdamW, of the blocks' matrices with Muon."""
    betas: tuple[float, float]
    """Decay of AdamW's first and second moments, a step."""
    weight_decay: float
    """Decoupled decay of the matrices, with Muon of those in blocks, times the learning rate, a
    step."""
    clip: float
    """Largest norm of the gradient; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        problems = [
            f"optimizer.{name}={getattr(self, name)} must not be negative"
            for name in self.__dataclass_fields__
            if isinstance(getattr(self, name), float) and getattr(self, name) < 0
        ]
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"optimizer.betas={list(self.betas)} must be at least 0 and below 1")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass
class MuonConfig(OptimizerConfig):
    """`optimizer=muon`: Muon for the matrices of the blocks, AdamW for all else."""

    embedding_lr: float
    """Peak learning rate of token and position embeddings, by AdamW, at `base_width`."""
    head_lr: float
    """Peak learning rate of the head, by AdamW, at `base_width`."""
    base_width: int
    """Width at which the rates of embeddings and head hold; at others they are multiplied by
    (width / base_width) ** -0.5 (nanochat's rule). Muon's steps need no such rule."""
    scalar_lr: float
    """Peak learning rate of gains and biases, by AdamW."""
    momentum: float
    """Decay of Muon's momentum, a step (Nesterov's form)."""
    num_iterations: int
    """Newton-Schulz iterations a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum} must be at least 0 and below 1")
        for name in ("num_iterations", "base_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)} must be at least 1")


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {"muon": MuonConfig, "adamw": OptimizerConfig}
"""The dataclass of each option of group `optimizer`."""


def orthogonalize(matrices: Tensor, num_iterations: int) -> Tensor:
    """Push the singular values of matrices (N, rows, columns) towards 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.size(-2) <= matrices.size(-1)
    x = matrices.bfloat16() if wide else matrices.bfloat16().mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def muon_update(grads: Tensor, buffer: Tensor, momentum: float, num_iterations: int) -> Tensor:
    """Steps of Muon for gradients (N, rows, columns), whose momentum `buffer` is moved along.

    A step has the size that Muon's author gives: sqrt(max(1, rows / columns)) times an
    orthogonal matrix.
    """
    buffer.lerp_(grads, 1 - momentum)
    update = orthogonalize(grads.lerp(buffer, momentum), num_iterations)
    scale: float = max(1.0, grads.size(-2) / grads.size(-1)) ** 0.5
    return update * scale


class Muon(torch.optim.Optimizer):
    """Muon where a group's `kind` is "muon" (matrices of one shape), fused AdamW elsewhere.

    One optimizer, so that one schedule, one checkpoint and Lightning's automatic
    optimization serve both. Every group has `lr`, `weight_decay` and its kind's settings.
    The matrices of a Muon group are stepped together as one stack of shape
    (N, rows, columns); the stack of momenta is the state of the group's first matrix. With FSDP
    each process makes the whole step of a matrix and takes its part; moments are in parts.
    """

    def __init__(self, groups: list[dict[str, Any]], *, compile: bool = False) -> None:
        super().__init__(groups, {})
        update: Callable[..., Tensor] = muon_update
        self._update = torch.compile(update, dynamic=False) if compile else update

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["kind"] == "muon":
                self._step_muon(parameters, group)
            elif parameters:
                self._step_adamw(parameters, group)
        return loss

    def _step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        grads = torch.stack([whole(p.grad) for p in parameters])
        state = self.state[parameters[0]]
        if not state:
            state["momentum"] = torch.zeros_like(grads)
        update = self._update_of(grads, state["momentum"], group)
        decay = 1 - group["lr"] * group["weight_decay"]
        torch._foreach_mul_([own_part(p) for p in parameters], decay)
        steps = update.to(parameters[0].dtype).unbind()
        parts = [own_part(part_like(step, p)) for step, p in zip(steps, parameters, strict=True)]
        torch._foreach_add_([own_part(p) for p in parameters], parts, alpha=-group["lr"])

    def _update_of(self, grads: Tensor, buffer: Tensor, group: dict[str, Any]) -> Tensor:
        """Muon's update; if the compiler fails, it says so, and the step goes on uncompiled."""
        settings = group["momentum"], group["num_iterations"]
        try:
            return self._update(grads, buffer, *settings)
        except torch._dynamo.exc.BackendCompilerFailed as error:  # imported when it is looked up
            print(f"torch.compile failed, Muon goes on without it: {str(error).splitlines()[0]}")
            self._update = muon_update
            return muon_update(grads, buffer, *settings)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["first"] = torch.zeros_like(p)
                self.state[p]["second"] = torch.zeros_like(p)
        states = [self.state[p] for p in parameters]
        adamw(
            [own_part(p) for p in parameters],
            [own_part(p.grad) for p in parameters],
            [own_part(state["first"]) for state in states],
            [own_part(state["second"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-10,
            maximize=False,
        )


def build_optimizer(
    config: OptimizerConfig, model: Decoder, *, fused: bool = True, compile: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of a model, with its parameters in groups by kind and shape.

    `fused=False` is for float16 with a scaled loss: a fused AdamW unscales the gradient
    inside, too late for it to be clipped. `compile` compiles Muon's step.
    """
    if isinstance(config, MuonConfig):
        return Muon(muon_groups(config, model), compile=compile)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def muon_groups(config: MuonConfig, model: Decoder) -> list[dict[str, Any]]:
    """Parameters by kind: block matrices by shape for Muon, the rest for AdamW.

    An embedding that is the head too is stepped at the head's rate.
    """
    shapes: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
    for p in model.layers.parameters():
        if p.ndim == 2:
            shapes[tuple(p.shape)].append(p)
    muon = {
        "kind": "muon",
        "lr": config.lr,
        "momentum": config.momentum,
        "num_iterations": config.num_iterations,
        "weight_decay": config.weight_decay,
    }
    groups: list[dict[str, Any]] = [{"params": stack, **muon} for stack in shapes.values()]
    taken = {id(p) for stack in shapes.values() for p in stack}
    width_rule = (model.embedding.embedding_dim / config.base_width) ** -0.5
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    for params, lr in (
        ([model.lm_head.weight], config.head_lr * width_rule),
        (embeddings, config.embedding_lr * width_rule),
        ([p for p in model.parameters() if p.ndim < 2], config.scalar_lr),
    ):
        params = [p for p in params if id(p) not in taken]
        taken.update(id(p) for p in params)
        if params:
            # "fused" keeps the step counts on the device when a state is loaded
            adam = {"kind": "adamw", "fused": True, "betas": config.betas, "weight_decay": 0.0}
            groups.append({"params": params, "lr": lr, **adam})
    homeless = [name for name, p in model.named_parameters() if id(p) not in taken]
    if homeless:
        raise ConfigError(
            f"optimizer=muon has no group for {', '.join(homeless)}; give them one in "
            "muon_groups, or take optimizer=adamw"
        )
    return groups
