"""The LightningModule: loss, optimizer, schedule, validation, and what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.evaluation import Evaluation
from babygpt_exp.hardware import do_without_openssl, is_sharded
from babygpt_exp.model import Decoder, build_model
from babygpt_exp.model.loss import chunk_gradients, chunked_nats, plain_nats
from babygpt_exp.optimizer import build_optimizer
from babygpt_exp.parallel.parts import whole
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.parallel.sharding import shard
from babygpt_exp.saved import CHECKPOINT_VERSION
from babygpt_exp.schedule import multiplier
from babygpt_exp.tokenizer import TextTokenizer


class GPTModule(L.LightningModule):
    """A decoder and how it is trained.

    `tokens` counts the tokens trained on by all ranks, prompts included. `validation` is the newest
    evaluation.
    Loss sums stay on the device until `take_loss` asks for them.
    """

    def __init__(
        self, config: Config, tokenizer: TextTokenizer, ranks: Ranks | None = None
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.compiled = config, tokenizer, False
        self.ranks = ranks or Ranks()
        self.is_sharded = self.ranks.world > 1 and is_sharded(config.hardware)
        self.model = build_model(config.model, config.arch, tokenizer.vocab_size)
        self.tokens = 0
        self.validation: Evaluation | None = None
        self.grad_norm: Tensor | None = None
        self.wants_grad_norm = False
        self._loss_sum = torch.zeros(())
        self._loss_targets = 0
        self._validation_nats = torch.zeros(())
        self._nats: Callable[[Tensor, Tensor], Tensor] = self.model.__call__

    def compile_model(self, device: torch.device) -> None:
        """Compute losses by torch.compile from now on; shapes must not change.

        On a GPU the compiler fuses the whole loss. On a CPU logits in chunks are faster, so that
        the channels and the loss of a chunk are compiled, each by itself. With FSDP each layer is,
        since its weights are gathered before and given away behind it.
        """
        do_without_openssl()
        mode = self.config.hardware.compile_mode
        model, compiled = self.model, partial(torch.compile, dynamic=False, mode=mode)
        self.compiled = True
        if self.is_sharded:
            for layer in model.layers:
                layer.forward = compiled(layer.forward)
            return
        if device.type == "cuda":
            self._nats = compiled(lambda x, y: model.nats(model.hidden(x), y, plain_nats))
            return
        hidden = compiled(model.hidden)
        loss = partial(chunked_nats, gradients=compiled(chunk_gradients))
        self._nats = lambda tokens, targets: model.nats(hidden(tokens), targets, loss)

    def configure_model(self) -> None:
        """Lightning's hook: spread the weights, once the processes know each other."""
        if self.is_sharded and not isinstance(self.model, FSDPModule):
            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"])

    def whole_model(self) -> Decoder:
        """The model to compute with outside of training; all ranks ask together for its weights."""
        if not self.is_sharded:
            return self.model
        weights = {name: whole(value) for name, value in self.model.state_dict().items()}
        model = build_model(self.config.model, self.config.arch, self.tokenizer.vocab_size)
        model.load_state_dict(weights)
        return model.to(self.device)

    def nats(self, batch: MicroBatch) -> Tensor:
        """Sum of the nats of a batch's targets.

        If the compiler fails, it says so, and the model goes on uncompiled.
        """
        try:
            return self._nats(batch.tokens, batch.targets)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            print(
                f"torch.compile failed, training goes on without it: {str(error).splitlines()[0]}"
            )
            plain: Callable[[Tensor, Tensor], Tensor] = self.model.__call__
            self._nats, self.compiled = plain, False
            return plain(batch.tokens, batch.targets)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Mean nats of a micro-batch's targets, weighted so that parts make up the batch."""
        nats = self.nats(batch)
        self._loss_sum = self._loss_sum.to(nats.device) + nats.detach()
        self._loss_targets += batch.num_targets
        self.tokens += batch.num_tokens
        return nats / batch.share_targets

    @property
    def counters(self) -> tuple[int, Tensor, int]:
        """What `training_step` counts; a step that was computed in part is undone by them."""
        return self.tokens, self._loss_sum, self._loss_targets

    @counters.setter
    def counters(self, values: tuple[int, Tensor, int]) -> None:
        self.tokens, self._loss_sum, self._loss_targets = values

    def take_loss(self) -> float:
        """Mean nats a token since the last call, of all ranks; waits for the device."""
        (total,) = self.ranks.sum([float(self._loss_sum)])
        loss = total / max(1, self._loss_targets)
        self._loss_sum, self._loss_targets = torch.zeros_like(self._loss_sum), 0
        return loss

    def is_finite(self) -> bool:
        """Whether all loss since the last `take_loss` is finite; waits for the device."""
        return math.isfinite(self.ranks.sum([float(self._loss_sum)])[0])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient: here, since Lightning refuses to with a fused optimizer."""
        clip = self.config.optimizer.clip
        if clip or self.wants_grad_norm:
            self.grad_norm = whole(
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or float("inf"))
            )

    def on_validation_model_eval(self) -> None:
        """Leave the mode as it is: no part of the models behaves otherwise in evaluation."""

    def on_validation_epoch_start(self) -> None:
        """Start the sum."""
        self._validation_nats = torch.zeros((), dtype=torch.float64, device=self.device)

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        """Add up nats.

        With gradients on where the model is compiled: the graph of training serves, and no
        second one has to be compiled.
        """
        with torch.set_grad_enabled(self.compiled and not self.is_sharded):
            self._validation_nats += self.nats(batch).detach()

    def on_validation_epoch_end(self) -> None:
        """Close the sum."""
        batches: list[MicroBatch] = self.trainer.datamodule.validation_batches  # type: ignore[attr-defined]
        self.validation = Evaluation(
            nats=self.ranks.sum([float(self._validation_nats)])[0],
            num_targets=sum(batch.num_targets for batch in batches),
            text_bytes=sum(batch.text_bytes for batch in batches),
        )

    def learning_rate_multiplier(self, step: int) -> float:
        """The schedule at the middle of step `step`, counted from 0."""
        return multiplier(self.config.schedule, (step + 0.5) / self.config.run.num_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Lightning's hook: one optimizer, one schedule stepped with it."""
        optimizer = build_optimizer(
            self.config.optimizer,
            self.model,
            fused=self.config.precision.name != "16-mixed",
            compile=self.compiled,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_multiplier)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes a checkpoint whole: config, tokenizer, counters, random state."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["babygpt"] = {
            "version": CHECKPOINT_VERSION,
            "config": self.config.plain,
            "tokenizer": self.tokenizer.json,
            "end_of_text": self.tokenizer.end_of_text,
            "tokens": self.tokens,
            "loss_sum": self.ranks.sum([float(self._loss_sum)])[0],
            "loss_targets": self._loss_targets,
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters and the random state back."""
        saved = checkpoint["babygpt"]
        self.tokens, self._loss_targets = saved["tokens"], saved["loss_targets"]
        self._loss_sum = torch.tensor(saved["loss_sum"] if self.ranks.is_first else 0.0)
        torch.set_rng_state(saved["rng"]["cpu"])
        for device, state in enumerate(saved["rng"]["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
