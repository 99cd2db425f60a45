"""Trains by `eirtrain`'s own code for so many seconds, scores texts, and says how it went.

Usage: python -P timed_eirtrain.py PLAN ARGUMENTS_OF_EIRTRAIN, by a Python that has eir-dl; -P,
since a module beside this one is named eir. PLAN is a JSON file with `seconds` of training,
`texts` to score and the path `result` for what was found.

Nothing that `eirtrain` does is changed, but for a last hook of its training step, which counts
what the step was trained on and ends the training in time. The clock starts when the first step
is done. Validation is by its model on its own preparation of the texts, cut to its length.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import eir.train
import torch
from eir.data_load.data_streaming.streaming_dataset import StreamingDataset
from eir.data_load.data_utils import Sample, consistent_nan_collate
from eir.models.model_training_utils import get_prediction_outputs_generator

NAME = "text_output"
"""The output of the tutorial's configuration."""
BATCH_SIZE = 8
"""Texts that are scored at once."""

_get_experiment = eir.train.get_default_experiment


class EnoughError(Exception):
    """The time is over."""


class Watch:
    """Counts what is trained on."""

    def __init__(self, seconds: float) -> None:
        self.limit_seconds = seconds
        self.seconds = 0.0
        self.num_steps = self.num_tokens = self.num_bytes = 0
        self.experiment: Any = None
        self._sizes = torch.zeros(0)
        self._start: float | None = None

    def get_experiment(self, *arguments: Any, **options: Any) -> Any:
        """EIR's experiment, with `count` in its training step."""
        self.experiment = _get_experiment(*arguments, **options)
        vocab = self.experiment.outputs[NAME].vocab
        sizes = [0 if is_special(token) else len(token.encode()) for token in vocab.get_itos()]
        sizes[vocab["<unk>"]] = 1  # a character that it does not know, of at least one byte
        self._sizes = torch.tensor(sizes)
        self.experiment.hooks.step_func_hooks.metrics.append(self.count)
        return self.experiment

    def count(self, batch: Any, **unused: Any) -> dict[str, Any]:
        """A hook: after each step."""
        now = time.perf_counter()
        if self._start is None:
            self._start = now
            return {}
        targets = batch.target_labels[NAME][NAME].cpu()
        self.seconds = now - self._start
        self.num_steps += 1
        self.num_tokens += int((targets != self.experiment.outputs[NAME].vocab["<pad>"]).sum())
        self.num_bytes += int(self._sizes[targets].sum())
        if self.seconds >= self.limit_seconds:
            raise EnoughError
        return {}


def is_special(token: str) -> bool:
    """Whether a token stands for no text."""
    return token in ("<bos>", "<unk>", "<mask>", "<pad>", "<eos>")


def cut(experiment: Any, texts: list[str]) -> list[str]:
    """What is scored of each text: its first tokens, as many as the model takes."""
    tokenizer = experiment.outputs[NAME].tokenizer.tokenizer
    limit = experiment.outputs[NAME].computed_max_length
    found = []
    for text in texts:
        offsets = tokenizer.encode(text).offsets[:limit]
        found.append(text[: offsets[-1][1]])
    return found


def score(experiment: Any, texts: list[str]) -> tuple[float, int]:
    """Nats and tokens of texts; the end of a text that is short is not asked for."""
    dataset = StreamingDataset("", experiment.inputs, experiment.outputs, test_mode=True)
    samples = [
        dataset._process_sample(Sample(str(number), {NAME: text}, {NAME: {NAME: text}}))
        for number, text in enumerate(texts)
    ]
    starts = range(0, len(samples), BATCH_SIZE)
    batches = [consistent_nan_collate(samples[start : start + BATCH_SIZE]) for start in starts]
    experiment.model.eval()
    predictions = get_prediction_outputs_generator(
        data_loader=batches,
        batch_prep_hook=experiment.hooks.step_func_hooks.base_prepare_batch,
        batch_prep_hook_kwargs={"experiment": experiment},
        model=experiment.model,
    )
    vocab = experiment.outputs[NAME].vocab
    nats, num_tokens = 0.0, 0
    for outputs, labels, _ in predictions:
        targets, logits = labels[NAME][NAME].cpu(), outputs[NAME][NAME].cpu().float()
        targets[(targets == vocab["<eos>"]) | (targets == vocab["<pad>"])] = -100
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )
        nats, num_tokens = nats + float(loss), num_tokens + int((targets >= 0).sum())
    return nats, num_tokens


def main() -> None:
    plan = json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    watch = Watch(plan["seconds"])
    eir.train.get_default_experiment = watch.get_experiment
    try:
        eir.train.main()
    except EnoughError:
        pass
    else:
        sys.exit("eirtrain ended before its time")
    scored = cut(watch.experiment, plan["texts"])
    nats, num_tokens = score(watch.experiment, plan["texts"])
    result = {
        "steps": watch.num_steps,
        "tokens": watch.num_tokens,
        "text_bytes": watch.num_bytes,
        "seconds": watch.seconds,
        "parameters": sum(p.numel() for p in watch.experiment.model.parameters()),
        "vocab_size": len(watch.experiment.outputs[NAME].vocab),
        "validation_nats": nats,
        "validation_tokens": num_tokens,
        "scored_texts": scored,
    }
    Path(plan["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
