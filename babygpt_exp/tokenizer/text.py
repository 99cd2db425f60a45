"""A tokenizer with what a language model needs to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers

from babygpt_exp.errors import ConfigError, UserError, one_line
from streamer.errors import RequestError
from streamer.tokens import TextTokenizer as PlainTokenizer

END_OF_TEXT = "<|endoftext|>"
"""Name of the token that ends a document, in tokenizers that are made here."""


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the `tokenizers` library and its token that ends a document."""

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

    @cached_property
    def _plain(self) -> PlainTokenizer:
        """The tokenizer as the streamer has it, so that text becomes tokens as in training."""
        return PlainTokenizer(self.json)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, as `encode_all` gives them."""
        (tokens,) = self.encode_all([text])
        return tokens

    def encode_all(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Tokens of each text, without any that is not in it: what spells a special token is text.

        UserError where the tokenizer has none for it.
        """
        try:
            for _, encoded in self._plain.encode(texts):
                yield from encoded
        except RequestError as error:
            raise UserError(one_line(error)) from error

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens; special ones give none."""
        return str(self.inner.decode(tokens))

    @cached_property
    def _special(self) -> frozenset[int]:
        """Tokens that `decode` gives no text for."""
        added = self.inner.get_added_tokens_decoder().items()
        return frozenset(i for i, token in added if token.special)

    @cached_property
    def token_bytes(self) -> dict[int, bytes] | None:
        """Bytes of each token of a byte-level tokenizer, special ones left out; None for others,
        whose tokens stand for no certain bytes."""
        if not is_byte_level(self.inner):
            return None
        alphabet, found = byte_alphabet(), {}
        for name, token in self.inner.get_vocab(with_added_tokens=True).items():
            known = all(character in alphabet for character in name)
            if token not in self._special:
                found[token] = bytes(alphabet[c] for c in name) if known else name.encode()
        return found

    def token_sizes(self, sample: str) -> list[float]:
        """UTF-8 bytes of text that each token stands for: (V,), special ones 0.

        Exact for byte-level tokenizers. For others every token counts the mean over `sample`.
        """
        silent = self._special | {self.end_of_text}
        if self.token_bytes is not None:
            sizes = [float(len(self.token_bytes.get(i, b""))) for i in range(self.vocab_size)]
        else:
            mean = len(sample.encode()) / max(1, len(self.encode(sample)))
            sizes = [mean] * self.vocab_size
        return [0.0 if i in silent else size for i, size in enumerate(sizes)]


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level token's name stands for.

    Printable Latin-1 bytes are named by themselves, the others in order from U+0100 on.
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    themselves = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in themselves} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether every character of a token's name is one byte of text, unchanged."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    return (
        isinstance(tokenizer.decoder, decoders.ByteLevel)
        and all(token in tokenizer.get_vocab(with_added_tokens=False) for token in alphabet)
        and tokenizer.normalizer is None
    )


def check_is_file(path: Path) -> None:
    """ConfigError unless there is a file of `tokenizer=file`."""
    if not path.is_file():
        raise ConfigError(f"tokenizer.path={path} is no file")


def read_tokenizer(path: Path, end_of_text: str) -> TextTokenizer:
    """A tokenizer from its file; UserError if it is none or lacks the token."""
    check_is_file(path)
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
