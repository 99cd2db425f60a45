"""What each option of group `tokenizer` may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class TokenizerConfig:
    """`tokenizer=bytes`: every byte is a token."""

    name: str
    """The option of group `tokenizer`."""


@dataclass
class TrainedConfig(TokenizerConfig):
    """What options have whose tokenizer is trained on the first documents of the stream."""

    vocab_size: int
    """Tokens, the 256 bytes and the end of text among them."""
    setup_samples: int
    """Documents of the training split to train on, in the order of the corpus."""

    def __post_init__(self) -> None:
        problems = []
        if not 257 <= self.vocab_size <= 1_000_000:
            problems.append(
                f"tokenizer.vocab_size={self.vocab_size} must be between 257 (the bytes and "
                "the end of text) and a million"
            )
        if self.setup_samples < 1:
            problems.append(f"tokenizer.setup_samples={self.setup_samples} must be at least 1")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass
class BPEConfig(TrainedConfig):
    """`tokenizer=bpe`: byte-level byte-pair encoding."""

    split: Literal["words", "none"]
    """`words` lets no token reach over the border of a word, a number or a run of signs; with
    `none` every pair may merge, as in EIR's BPE."""


@dataclass
class SuperBPEConfig(TrainedConfig):
    """`tokenizer=superbpe`: byte-pair encoding that learns words first and then phrases."""

    words_share: float
    """Share of the vocabulary that is learned inside words; the rest may cross spaces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.words_share < 1:
            raise ValueError(
                f"tokenizer.words_share={self.words_share} must be between 0 and 1; "
                "tokenizer=bpe has words only, tokenizer.split=none no words"
            )


@dataclass
class FileConfig(TokenizerConfig):
    """`tokenizer=file`: any file of the `tokenizers` library."""

    path: str
    """The file, as `Tokenizer.save` writes it and as it comes with a Hugging Face model."""
    end_of_text: str
    """Name of its token that ends a document."""


TOKENIZERS: dict[str, type[TokenizerConfig]] = {
    "bpe": BPEConfig,
    "superbpe": SuperBPEConfig,
    "file": FileConfig,
    "bytes": TokenizerConfig,
}
"""The dataclass of each option of group `tokenizer`."""
