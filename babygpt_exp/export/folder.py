"""The folder of an export: all files, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from babygpt_exp.export.architectures import exported
from babygpt_exp.export.card import card
from babygpt_exp.folder import sync
from babygpt_exp.trained import Trained


def export(trained: Trained, folder: Path) -> None:
    """Write a trained model into a new or empty folder; ConfigError for what can not be."""
    from safetensors.torch import save

    found, folder = exported(trained), folder.resolve()
    weights = {name: weight.contiguous() for name, weight in found.weights.items()}
    texts = {
        "config.json": as_json(found.config),
        "generation_config.json": as_json(generation_config(trained)),
        "tokenizer.json": trained.tokenizer.json,
        "tokenizer_config.json": as_json(tokenizer_config(trained)),
        "README.md": card(trained, folder.name),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    try:
        unfinished.mkdir()
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8", newline="")
        data = save(weights, metadata={"format": "pt"})
        (unfinished / "model.safetensors").write_bytes(data)
        for path in (*unfinished.iterdir(), unfinished):
            sync(path)
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(folder.parent)


def generation_config(trained: Trained) -> dict[str, Any]:
    """What `generate` of transformers goes by: a text ends at an end of text."""
    end_of_text = trained.tokenizer.end_of_text
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
    }


def tokenizer_config(trained: Trained) -> dict[str, Any]:
    """How transformers takes tokenizer.json: as it is."""
    name = trained.tokenizer.inner.id_to_token(trained.tokenizer.end_of_text)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "pad_token": name,
        "model_max_length": trained.config.model.context,
        "clean_up_tokenization_spaces": False,
    }


def as_json(values: dict[str, Any]) -> str:
    """A file's content."""
    return json.dumps(values, indent=2) + "\n"
