"""Drawing samples while a model learns: from prompts of the config and from validation text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning as L

from babygpt_exp.callbacks.metrics import Clock
from babygpt_exp.callbacks.stop import StopSignals
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.data.instructions import first_prompt, prompt_tokens, template_of
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import for_writing, generate
from babygpt_exp.model import IGNORE, Decoder
from babygpt_exp.peak import matmul_dtype
from babygpt_exp.sampling import SamplingConfig
from babygpt_exp.terminal import Terminal
from babygpt_exp.tracking.history import Sample
from streamer.sources.template import Template

if TYPE_CHECKING:
    from babygpt_exp.data.module import StreamDataModule
    from babygpt_exp.module import GPTModule


class Samples(L.Callback):
    """A round of samples each interval, and one at the end."""

    def __init__(
        self, config: Config, clock: Clock, terminal: Terminal, signals: StopSignals
    ) -> None:
        self.config, self.clock, self.terminal, self.signals = config, clock, terminal, signals
        self.interval = config.run.interval_steps(config.run.sample_every_tokens, parts=4)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Draw a round if the step is due."""
        if batch.next is not None:
            self.draw_if_due(trainer, pl_module)  # type: ignore[arg-type]

    def draw_if_due(self, trainer: L.Trainer, module: GPTModule) -> None:
        """Draw and log a round of the step that has just ended."""
        if not self.config.run.is_due(trainer.global_step, self.interval):
            return
        with self.clock.pause():
            model = module.whole_model()
            if not module.ranks.is_first:
                return
            with self.signals.leaving():
                samples = self._draw(trainer, module, model)
            if not samples:
                return
            for logger in trainer.loggers:
                logger.log_samples(samples)  # type: ignore[attr-defined]
            self.terminal.samples(samples)

    def _prompts(self, trainer: L.Trainer, module: GPTModule) -> list[tuple[str, list[int]]]:
        """Kind and tokens of each prompt; a text starts behind an end of text."""
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer, template = module.tokenizer, template_of(data.plan)
        manual = (prompt_tokens(tokenizer, template, text) for text in self.config.run.prompts)
        auto = validation_prompts(
            data.validation_batches, self.config.sampling, template, tokenizer.end_of_text
        )
        return [
            *(("manual", list(prompt)) for prompt in manual),
            *(("auto", prompt) for prompt in auto),
        ]

    def _draw(self, trainer: L.Trainer, module: GPTModule, model: Decoder) -> list[Sample]:
        """Samples of all prompts, written beside each other."""
        prompts, sampling = self._prompts(trainer, module), self.config.sampling
        if not prompts:
            return []
        model = for_writing(model, matmul_dtype(self.config.precision))
        engine = Engine(model, module.tokenizer, len(prompts))
        requests = [
            Request(
                prompt=tuple(prompt),
                max_new_tokens=sampling.max_new_tokens,
                settings=sampling.settings(seed=self.config.seed + number),
            )
            for number, (_, prompt) in enumerate(prompts)
        ]
        return [
            Sample(
                step=trainer.global_step,
                tokens=module.tokens,
                kind=kind,  # type: ignore[arg-type]
                prompt=module.tokenizer.decode(prompt),
                text=generated.text,
            )
            for (kind, prompt), generated in zip(prompts, generate(engine, requests), strict=True)
        ]


def validation_prompts(
    batches: Sequence[MicroBatch],
    sampling: SamplingConfig,
    template: Template | None,
    end_of_text: int,
) -> list[list[int]]:
    """What the first blocks of the validation begin with: some tokens of text, or the first prompt
    of instructions. As many as `num_auto`, or as there are blocks."""
    blocks = (
        (tokens, is_target)
        for batch in batches
        for tokens, is_target in zip(batch.tokens, batch.targets != IGNORE, strict=True)
        if is_target.any()  # a row that fills the last batch up is no text
    )
    chosen = list(islice(blocks, sampling.num_auto))
    if template is not None:
        return [first_prompt(tokens.tolist(), end_of_text) for tokens, _ in chosen]
    size = sampling.prompt_tokens
    return [tokens[is_target][:size].tolist() for tokens, is_target in chosen]  # no padding
