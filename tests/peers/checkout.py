"""A checkout of nanoGPT, of which nothing is copied: its parts are read where they lie."""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from babygpt_exp.config import Config
from babygpt_exp.model import Decoder

SETTINGS = ("weight_decay", "beta1", "beta2", "grad_clip")
"""What is taken from the constants at the top of train.py."""
BLOCK = {
    "attention_norm": "ln_1",
    "attention.projection": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.expansion": "mlp.c_fc",
    "mlp.projection": "mlp.c_proj",
}
"""Our names in a block and nanoGPT's; its c_attn is our q, k and v."""


@dataclass(frozen=True)
class Peer:
    """What is used of a checkout of nanoGPT."""

    module: ModuleType
    """Its model.py."""
    get_lr: ast.FunctionDef
    """The schedule in its train.py."""
    settings: dict[str, float]
    """Its values of SETTINGS."""

    def schedule(self, lr: float, warmup: int, num_steps: int) -> Callable[[int], float]:
        """Its `get_lr` for a run, with its rule of a tenth of the rate at the end."""
        names: dict[str, Any] = {
            "math": math,
            "learning_rate": lr,
            "min_lr": lr / 10,
            "warmup_iters": warmup,
            "lr_decay_iters": num_steps,
        }
        exec(compile(ast.Module([self.get_lr], []), "train.py", "exec"), names)
        made: Callable[[int], float] = names["get_lr"]
        return made


def open_checkout(checkout: Path) -> Peer:
    """Reads a checkout; nothing of train.py runs but `get_lr`."""
    for name in ("model.py", "train.py"):
        if not (checkout / name).is_file():
            sys.exit(f"no {name} in {checkout}: name a checkout of nanoGPT")
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return Peer(module, *read_train(checkout / "train.py"))


def read_train(path: Path) -> tuple[ast.FunctionDef, dict[str, float]]:
    """The function `get_lr` and the constants of SETTINGS."""
    settings: dict[str, float] = {}
    function = None
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == "get_lr":
            function = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in SETTINGS:
                settings[name] = float(ast.literal_eval(node.value))
    if function is None or len(settings) < len(SETTINGS):
        sys.exit(f"{path} has no get_lr, or not all of {', '.join(SETTINGS)}")
    return function, settings


def new_model(peer: Peer, config: Config, vocab_size: int) -> Any:
    """nanoGPT's model of our run's sizes, without dropout."""
    return peer.module.GPT(
        peer.module.GPTConfig(
            block_size=config.model.context,
            vocab_size=vocab_size,
            n_layer=config.model.num_layers,
            n_head=config.model.num_heads,
            n_embd=config.model.width,
            dropout=0.0,
            bias=config.plain["arch"]["bias"],
        )
    )


def their_weights(model: Decoder) -> dict[str, Tensor]:
    """Weights of our `arch=gpt2` without biases, by nanoGPT's names."""
    ours = model.state_dict()
    theirs = {
        "transformer.wte.weight": ours["embedding.weight"],
        "transformer.wpe.weight": ours["positions.weight"],
        "transformer.ln_f.weight": ours["norm.weight"],
        "lm_head.weight": ours["embedding.weight"],
    }
    for layer in range(len(model.layers)):
        our, their = f"layers.{layer}.", f"transformer.h.{layer}."
        qkv = [ours[f"{our}attention.{name}.weight"] for name in ("q", "k", "v")]
        theirs[f"{their}attn.c_attn.weight"] = torch.cat(qkv)
        for name, other in BLOCK.items():
            theirs[f"{their}{other}.weight"] = ours[f"{our}{name}.weight"]
    return theirs


def largest_spread(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Percent by which the standard deviations of two matrices of one name differ at most."""
    matrices = [name for name, weight in theirs.items() if weight.ndim == 2]
    return max(abs(100 * float(ours[n].std() / theirs[n].std() - 1)) for n in matrices)
