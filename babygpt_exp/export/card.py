"""README.md of an export: what the model is, how it was trained, and how good it is."""

from __future__ import annotations

import json
from typing import Any

from babygpt_exp.config import Config
from babygpt_exp.folder import RunFolder
from babygpt_exp.saved import read_summary
from babygpt_exp.trained import Trained
from streamer.sources.address import name_of
from streamer.sources.spec import split_weight

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- babygpt-exp
---

# {name}

A small language model of {parameters:,} parameters, trained with babygpt-exp.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer(tokenizer.bos_token + {prompt}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))
```

A text starts from the token `{end_of_text}`, as in training; the tokenizer does not add it.
The model sees {context} tokens at once.

| | |
|---|---|
{rows}
"""


def card(trained: Trained, name: str) -> str:
    """The model card of an export that is called `name`."""
    tokenizer, config = trained.tokenizer, trained.config
    return CARD.format(
        name=name,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        end_of_text=tokenizer.inner.id_to_token(tokenizer.end_of_text),
        context=config.model.context,
        prompt=json.dumps(next(iter(config.run.prompts), "The")),
        rows="\n".join(f"| {key} | {value} |" for key, value in facts(trained).items()),
    )


def facts(trained: Trained) -> dict[str, str]:
    """What there is to know of a model, in the order of interest."""
    config = trained.config
    model, run = config.model, config.run
    vocab_size = trained.tokenizer.vocab_size
    found = {
        "model": f"{model.num_layers} layers, {model.width} channels, {model.num_heads} heads",
        "architecture": f"arch={config.arch.name}",
        "tokenizer": f"tokenizer={config.tokenizer.name}, {vocab_size:,} tokens",
        "text": text_of(config),
        "trained on": f"{trained.tokens:,} tokens, {trained.step:,} steps of {run.batch_tokens:,}",
        "optimizer": f"optimizer={config.optimizer.name}, schedule={config.schedule.name}, "
        f"precision={config.precision.name}, seed={config.seed}",
    }
    return found | measured(trained)


def text_of(config: Config) -> str:
    """The data in a few words; names of sources, not the places where they lie."""
    names = [name_of(split_weight(source)[0]) for source in config.data.embedded_sources]
    return f"data={config.data.name}" + (f" ({', '.join(names)})" if names else "")


def measured(trained: Trained) -> dict[str, str]:
    """What the run's summary says of this checkpoint; nothing where it is not of its end."""
    summary: dict[str, Any] = read_summary(RunFolder(trained.checkpoint.parent.parent))
    found = {}
    if summary.get("git_commit"):
        found["commit of babygpt-exp"] = str(summary["git_commit"])
    is_end = summary.get("status") == "completed" and summary.get("steps") == trained.step
    bits, loss = summary.get("final_val_bpb"), summary.get("final_val_loss")
    if is_end and isinstance(bits, float) and isinstance(loss, float):
        found["validation"] = f"{bits:.4f} bits a byte, {loss:.4f} nats a token"
    return found
