"""Group `tokenizer`: how text becomes tokens. Every option is a file of the `tokenizers` library.

The tokenizer is made (or read) here and sent to the streamer, which does the tokenizing;
it travels in the run folder and in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from babygpt_exp.errors import ConfigError, one_line

END_OF_TEXT = "<|endoftext|>"
"""Name of the token that ends a document, in tokenizers that are made here."""

SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""Words with their space, numbers of two digits, runs of signs, white space: the pattern of
GPT-4 in its form for small vocabularies (https://github.com/karpathy/nanochat)."""


@dataclass
class TokenizerConfig:
    """`tokenizer=bytes`: every byte is a token."""

    name: str
    """The option of group `tokenizer`."""


@dataclass
class BPEConfig(TokenizerConfig):
    """`tokenizer=bpe`: byte-level byte-pair encoding, trained on the first documents."""

    vocab_size: int
    """Tokens, the 256 bytes and the end of text among them."""
    setup_samples: int
    """Documents of the training split to train on, in the order of the corpus."""

    def __post_init__(self) -> None:
        if not 257 <= self.vocab_size <= 1_000_000:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} must be between 257 (the bytes and "
                "the end of text) and a million"
            )
        if self.setup_samples < 1:
            raise ValueError(f"tokenizer.setup_samples={self.setup_samples} must be at least 1")


@dataclass
class FileConfig(TokenizerConfig):
    """`tokenizer=file`: any file of the `tokenizers` library."""

    path: str
    """The file, as `Tokenizer.save` writes it and as it comes with a Hugging Face model."""
    end_of_text: str
    """Name of its token that ends a document."""

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise ValueError(f"tokenizer.path={self.path} is no file")


TOKENIZERS: dict[str, type[TokenizerConfig]] = {
    "bpe": BPEConfig,
    "file": FileConfig,
    "bytes": TokenizerConfig,
}
"""The dataclass of each option of group `tokenizer`."""


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with what a language model needs to know of it."""

    inner: Tokenizer
    """The tokenizer of the library."""
    end_of_text: int
    """Token that ends a document, and with which a text starts."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self.inner.get_vocab_size(with_added_tokens=True))

    @cached_property
    def json(self) -> str:
        """The file's content, the same for the same tokenizer."""
        return str(self.inner.to_str())

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without any that is not in it."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens; special ones give none."""
        return str(self.inner.decode(tokens))

    def token_bytes(self, sample: str) -> list[float]:
        """UTF-8 bytes of text that each token stands for: (V,), special ones 0.

        Exact for byte-level tokenizers. For others, whose tokens stand for no certain bytes,
        every token counts the mean over `sample`.
        """
        special = {i for i, token in self.inner.get_added_tokens_decoder().items() if token.special}
        special.add(self.end_of_text)
        if is_byte_level(self.inner):
            sizes = [float(len(self.inner.id_to_token(i) or "")) for i in range(self.vocab_size)]
        else:
            mean = len(sample.encode()) / max(1, len(self.encode(sample)))
            sizes = [mean] * self.vocab_size
        return [0.0 if i in special else size for i, size in enumerate(sizes)]


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether every character of a token's name is one byte of text, unchanged."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    return (
        isinstance(tokenizer.decoder, decoders.ByteLevel)
        and all(token in tokenizer.get_vocab(with_added_tokens=False) for token in alphabet)
        and tokenizer.normalizer is None
    )


def obtain_tokenizer(
    config: TokenizerConfig, documents: Callable[[int], list[str]]
) -> TextTokenizer:
    """The tokenizer of a config; `documents(n)` gives the first n documents of the stream."""
    if isinstance(config, FileConfig):
        return read_tokenizer(Path(config.path), config.end_of_text)
    if isinstance(config, BPEConfig):
        return train_bpe(config.vocab_size, documents(config.setup_samples))
    return train_bpe(257, [])


def train_bpe(vocab_size: int, documents: list[str]) -> TextTokenizer:
    """A byte-level BPE of `vocab_size` tokens; the 256 bytes alone if 257."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return TextTokenizer(tokenizer, tokenizer.get_vocab()[END_OF_TEXT])


def read_tokenizer(path: Path, end_of_text: str) -> TextTokenizer:
    """A tokenizer from its file; UserError if it is none or lacks the token."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f"tokenizer.path={path} is no file of the tokenizers library: {one_line(error)}"
        ) from error
    token = tokenizer.token_to_id(end_of_text)
    if token is None:
        names = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
        raise ConfigError(
            f"tokenizer.end_of_text={end_of_text} is not in {path}; "
            f"its special tokens: {', '.join(names) or 'none'}"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return TextTokenizer(tokenizer, token)
