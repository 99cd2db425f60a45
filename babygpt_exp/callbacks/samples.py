"""Drawing samples while a model learns: from prompts of the config and from validation text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

from babygpt_exp.callbacks.metrics import Clock
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.sampling import generate
from babygpt_exp.terminal import Terminal
from babygpt_exp.tracking.files import Sample

if TYPE_CHECKING:
    from babygpt_exp.module import GPTModule


class Samples(L.Callback):
    """A round of samples each interval, and one at the end."""

    def __init__(self, config: Config, clock: Clock, terminal: Terminal) -> None:
        self.config, self.clock, self.terminal = config, clock, terminal
        self.interval = config.run.interval_steps(config.run.sample_every_tokens, parts=4)
        self.final: list[Sample] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Draw a round if the step is due."""
        due = self.config.run.is_due(trainer.global_step, self.interval)
        if batch.next is None or not due:
            return
        with self.clock.pause():
            module: GPTModule = pl_module  # type: ignore[assignment]
            self.final = self._draw(trainer, module)
            if not self.final:
                return
            for logger in trainer.loggers:
                logger.log_samples(self.final)  # type: ignore[attr-defined]
            self.terminal.samples(self.final)

    def _prompts(self, trainer: L.Trainer, module: GPTModule) -> list[tuple[str, list[int]]]:
        """Kind and tokens of each prompt; a text starts behind an end of text."""
        encode, stop = module.tokenizer.encode, module.tokenizer.end_of_text
        prompts = [("manual", [stop, *encode(text)]) for text in self.config.run.prompts]
        batches: list[MicroBatch] = trainer.datamodule.validation_batches  # type: ignore[attr-defined]
        rows = [row for batch in batches for row in batch.tokens.tolist()]
        size = self.config.sampling.prompt_tokens
        return prompts + [("auto", row[:size]) for row in rows[: self.config.sampling.num_auto]]

    def _draw(self, trainer: L.Trainer, module: GPTModule) -> list[Sample]:
        decode, samples = module.tokenizer.decode, []
        for number, (kind, prompt) in enumerate(self._prompts(trainer, module)):
            with trainer.precision_plugin.forward_context():
                text = generate(
                    module.model,
                    prompt,
                    module.tokenizer.end_of_text,
                    self.config.sampling,
                    seed=self.config.seed + number,
                )
            samples.append(
                Sample(
                    step=trainer.global_step,
                    tokens=module.tokens,
                    kind=kind,  # type: ignore[arg-type]
                    prompt=decode(prompt),
                    text=decode(text),
                )
            )
        return samples
