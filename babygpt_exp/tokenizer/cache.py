"""Trained tokenizers on disk: the same training on the same text is done once.

An entry is known by all that decides it: what the config says, every document, and the version of
the library. So a hit is the tokenizer that training would give, to the byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from babygpt_exp.folder import write_whole
from babygpt_exp.tokenizer.config import TrainedConfig
from babygpt_exp.tokenizer.text import END_OF_TEXT, TextTokenizer
from streamer.cache import default_cache_dir

MAX_ENTRIES = 100
"""Tokenizers that are kept, half a megabyte each; those used longest ago go first."""


def cached(
    config: TrainedConfig, documents: list[str], train: Callable[[], TextTokenizer]
) -> TextTokenizer:
    """What `train` gives for a config and documents, from disk if it has been made before."""
    path = default_cache_dir().with_name("tokenizers") / f"{key_of(config, documents)}.json"
    found = read(path)
    if found is not None:
        return found
    tokenizer = train()
    try:
        write_whole(path, tokenizer.json)
        entries = sorted(path.parent.glob("*.json"), key=lambda entry: entry.stat().st_mtime)
        for entry in entries[:-MAX_ENTRIES]:
            entry.unlink()
    except OSError:  # a full disk, or another process that tidies up: it is trained again next time
        pass
    return tokenizer


def read(path: Path) -> TextTokenizer | None:
    """An entry, and mark it as used; None if there is none that is whole."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
        path.touch()
    except Exception:  # the library raises nothing narrower
        return None
    return TextTokenizer(tokenizer, tokenizer.get_vocab()[END_OF_TEXT])


def key_of(config: TrainedConfig, documents: list[str]) -> str:
    """SHA-256 of all that decides a tokenizer."""
    digest = hashlib.sha256()
    digest.update(json.dumps([asdict(config), version("tokenizers")]).encode())
    for document in documents:
        data = document.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
