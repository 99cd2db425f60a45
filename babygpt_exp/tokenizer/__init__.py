"""Group `tokenizer`: how text becomes tokens. Every option is a file of the `tokenizers` library.

The tokenizer is made (or read) here and sent to the streamer, which does the tokenizing;
it travels in the run folder and in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from babygpt_exp.tokenizer.bpe import train_bpe
from babygpt_exp.tokenizer.cache import cached
from babygpt_exp.tokenizer.config import (
    TOKENIZERS,
    BPEConfig,
    FileConfig,
    SuperBPEConfig,
    TokenizerConfig,
    TrainedConfig,
)
from babygpt_exp.tokenizer.superbpe import train_superbpe
from babygpt_exp.tokenizer.text import (
    END_OF_TEXT,
    TextTokenizer,
    check_is_file,
    is_byte_level,
    read_tokenizer,
)


def obtain_tokenizer(
    config: TokenizerConfig, documents: Callable[[int], list[str]]
) -> TextTokenizer:
    """The tokenizer of a config; `documents(n)` gives the first n documents of the stream."""
    if isinstance(config, FileConfig):
        return read_tokenizer(Path(config.path), config.end_of_text)
    if isinstance(config, TrainedConfig):
        texts = documents(config.setup_samples)
        return cached(config, texts, lambda: train(config, texts))
    return train_bpe(257, [])


def train(config: TrainedConfig, texts: list[str]) -> TextTokenizer:
    """The tokenizer of a config that is trained on texts."""
    if isinstance(config, SuperBPEConfig):
        return train_superbpe(config.vocab_size, texts, config.words_share)
    assert isinstance(config, BPEConfig)
    return train_bpe(config.vocab_size, texts, config.split)


__all__ = [
    "END_OF_TEXT",
    "TOKENIZERS",
    "BPEConfig",
    "FileConfig",
    "SuperBPEConfig",
    "TextTokenizer",
    "TokenizerConfig",
    "TrainedConfig",
    "check_is_file",
    "is_byte_level",
    "obtain_tokenizer",
    "read_tokenizer",
    "train_bpe",
    "train_superbpe",
]
