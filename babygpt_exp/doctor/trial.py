"""A few steps of a run on random tokens, in a process of its own: how long, and how much memory.

`python -m babygpt_exp.doctor.trial OVERRIDES` prints one JSON object in its last line. Whatever
happens to it (no memory, a compiler that hangs), its parent only notes that it did.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from babygpt_exp.assembly import new_trainer
from babygpt_exp.bench.generation import never_ending
from babygpt_exp.bench.memory import forget_peak_memory, memory_figures
from babygpt_exp.bench.windows import BareLoop
from babygpt_exp.compose import compose_config
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.doctor.plan import Plan, make_plan
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import for_writing, generate
from babygpt_exp.module import GPTModule
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.peak import matmul_dtype, synchronize
from babygpt_exp.tokenizer import TextTokenizer
from babygpt_exp.tracking.config import WandbConfig
from babygpt_exp.train import seed

STEP_SECONDS = 4.0
"""How long steps are measured, two at least."""

SAMPLE_TOKENS = 16
"""Tokens of a sample that is drawn to see how long they take."""


def main() -> None:
    """Entry point of the process."""
    config = compose_config(sys.argv[1:])
    seed(config, Ranks())
    if isinstance(config.logger, WandbConfig):
        import wandb  # noqa: F401  # it takes memory in a run too
    print(json.dumps(Trial(config, make_plan(config)).figures()))


class Trial:
    """A model of a config and its loop."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.config, self.plan, self.device = config, plan, plan.machine.device
        forget_peak_memory(self.device)
        self.base_mb = float(memory_figures(self.device)["process_memory_mb"] or 0.0)
        self.tokenizer = stand_in(plan.vocab_size)
        self.module = GPTModule(config, self.tokenizer)
        if plan.compiled:
            self.module.compile_model(self.device)
        trainer = new_trainer(
            config, Ranks(), plan.machine.accelerator, plan.micro_batch_tokens, [], []
        )
        trainer.precision_plugin.convert_module(self.module)
        self.module.to(self.device)
        made: Any = self.module.configure_optimizers()
        trainer.strategy.optimizers = [made["optimizer"]]
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(**made["lr_scheduler"])]
        self.loop = BareLoop(config, self.module, trainer)
        self.part = random_batch(plan, config.model.context).to(self.device)

    def figures(self) -> dict[str, Any]:
        """Seconds and memory in MB."""
        begin = time.perf_counter()
        first = self.step_seconds(1)
        second = self.step_seconds(1)
        num_parts = min(self.plan.accumulation, max(1, int(STEP_SECONDS / 3 / second)))
        seconds = [self.step_seconds(num_parts) for _ in range(2)]
        while sum(seconds) + seconds[-1] < STEP_SECONDS:
            seconds.append(self.step_seconds(num_parts))
        step = sorted(seconds)[len(seconds) // 2]  # the median
        found = {
            "compiled": self.module.compiled,
            "first_seconds": first - second,
            "token_seconds": step / num_parts / self.plan.micro_batch_tokens,
            "validation_token_seconds": self.validation_seconds() / self.plan.micro_batch_tokens,
            "samples_seconds": self.samples_seconds(),
        }
        memory = memory_figures(self.device)
        on_gpu = memory["peak_memory_mb"] if self.device.type == "cuda" else None
        return found | {
            "base_mb": self.base_mb,
            "process_mb": memory["process_memory_mb"],
            "gpu_mb": on_gpu,
            "trial_seconds": time.perf_counter() - begin,
        }

    def step_seconds(self, num_parts: int) -> float:
        """One step of so many micro-batches."""
        start = time.perf_counter()
        self.loop.step([self.part] * num_parts)
        synchronize(self.device)
        return time.perf_counter() - start

    def validation_seconds(self) -> float:
        """A micro-batch of a validation, the second one."""
        for _ in range(2):
            start = time.perf_counter()
            with torch.set_grad_enabled(self.module.compiled), self.loop.precision():
                self.module.nats(self.part)
            synchronize(self.device)
        return time.perf_counter() - start

    def samples_seconds(self) -> float:
        """A round of the run's samples, from a short one."""
        sampling = self.config.sampling
        num_samples = len(self.config.run.prompts) + sampling.num_auto
        if not num_samples:
            return 0.0
        model = for_writing(self.module.model, matmul_dtype(self.config.precision))
        engine = Engine(model, never_ending(self.tokenizer), num_samples)
        prompt = tuple(self.part.tokens[0, : sampling.prompt_tokens].tolist())
        count = min(SAMPLE_TOKENS, sampling.max_new_tokens)
        settings = sampling.settings(seed=1)
        start = time.perf_counter()
        generate(engine, [Request(prompt, count, settings)] * num_samples)
        return (time.perf_counter() - start) * sampling.max_new_tokens / count


def stand_in(vocab_size: int) -> TextTokenizer:
    """A tokenizer with so many tokens, made without any text."""
    words = {str(number): number for number in range(vocab_size)}
    return TextTokenizer(Tokenizer(WordLevel(words, unk_token="0")), end_of_text=0)


def random_batch(plan: Plan, context: int) -> MicroBatch:
    """A micro-batch of the plan's size."""
    shape = (plan.micro_batch_tokens // context, context)
    tokens = torch.randint(plan.vocab_size, shape)
    count = tokens.numel()
    return MicroBatch(tokens, tokens.roll(-1, 1), count, count, float(count), next=None)


if __name__ == "__main__":
    main()
