"""What `POST /v1/completions` may ask for, and what of it goes to the engine.

The fields and their defaults are OpenAI's, and besides them top_k, min_p and repetition_penalty,
which are off unless asked for. A prompt that is a text begins after an end of text, as in training;
one that is a list of tokens is taken as it is.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from babygpt_exp.errors import UserError, one_line
from babygpt_exp.generation.request import Request
from babygpt_exp.sampling import LARGEST_SEED, Settings
from babygpt_exp.serving.errors import Refused
from babygpt_exp.serving.fields import Fields
from babygpt_exp.trained import Trained

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

RANDOM_SEEDS = 2**53
"""A seed that nobody gave is below: every JSON parser keeps it exact."""


@dataclass(frozen=True)
class Limits:
    """What is too much."""

    body_bytes: int = 1 << 20
    """Length of a body."""
    max_prompt_tokens: int = 512
    """Tokens of a prompt; the model's context, unless the operator says otherwise."""
    max_tokens: int = 4096
    """The largest `max_tokens`."""
    num_texts: int = 128
    """Texts of a request: prompts times n."""
    num_waiting: int = 256
    """Texts that may wait for a slot."""
    num_stops: int = 16
    """Stop strings of a request."""
    stop_characters: int = 256
    """Length of each."""
    num_logprobs: int = 20
    """The largest `logprobs`."""


@dataclass(frozen=True)
class Served:
    """The model that is served."""

    trained: Trained
    """Itself."""
    name: str
    """What clients call it."""
    limits: Limits
    """What is too much."""

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        return self.trained.model.embedding.num_embeddings


@dataclass(frozen=True)
class Asked:
    """A request for completions."""

    requests: tuple[Request, ...]
    """The texts to write, the choices of each prompt after one another."""
    prompt_tokens: int
    """Tokens of all prompts, each counted once."""
    echoes: tuple[str, ...]
    """What each text begins with: its prompt if `echo` is set, else nothing."""
    streams: bool
    """Whether tokens are sent as they come."""
    tells_usage: bool
    """Whether a stream ends with the number of its tokens."""


def read_completion(body: bytes, served: Served) -> Asked:
    """What a body asks for; Refused if that is not to be had. May take long for a long prompt."""
    fields, limits = Fields(body), served.limits
    model = fields.string("model", served.name)
    prompts = fields.take("prompt")
    num_choices = fields.integer("n", 1, 1, limits.num_texts)
    max_tokens = fields.integer("max_tokens", DEFAULT_MAX_TOKENS, 1, limits.max_tokens)
    settings, seed = _settings(fields)
    stop = _stop(fields, limits)
    logprobs = fields.integer("logprobs", -1, 0, limits.num_logprobs)
    echo, streams = fields.flag("echo"), fields.flag("stream")
    tells_usage = _tells_usage(fields, streams)
    if echo and logprobs >= 0:
        reason = "echo and logprobs do not go together: the log chances of a prompt are not told"
        fields.refuse("echo", reason)
    fields.harmless("best_of", num_choices)
    for name in ("presence_penalty", "frequency_penalty"):
        fields.harmless(name, 0)
    fields.harmless("logit_bias", {})
    fields.harmless("suffix", "")
    fields.string("user", "")
    read = _prompts(fields, prompts, served)
    if len(read) * num_choices > limits.num_texts:
        fields.refuse("n", f"at most {limits.num_texts} texts at once: prompts times n")
    fields.done()
    if model != served.name:
        message = f"there is no model {model[:100]!r} here, but {served.name!r}"
        raise Refused(404, message, "model", "model_not_found")
    tokens = [_tokens(prompt, served) for prompt in read]
    requests, echoes = [], []
    for prompt, found in zip(read, tokens, strict=True):
        for number in range(num_choices):
            chosen = secrets.randbelow(RANDOM_SEEDS) if seed is None else seed + number
            one = Request(
                prompt=found,
                max_new_tokens=max_tokens,
                settings=replace(settings, seed=chosen % (LARGEST_SEED + 1)),
                stop=stop,
                num_top_logprobs=None if logprobs < 0 else logprobs,
            )
            requests.append(one)
            echoes.append(_text(prompt, served) if echo else "")
    prompt_tokens = sum(map(len, tokens))
    return Asked(tuple(requests), prompt_tokens, tuple(echoes), streams, tells_usage)


def _settings(fields: Fields) -> tuple[Settings, int | None]:
    """How tokens are drawn, and the seed if one is given."""
    seed = fields.integer("seed", -1, 0, LARGEST_SEED)
    values: dict[str, Any] = {
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.number("top_p", 1.0),
        "top_k": fields.integer("top_k", 0, 0, 2**31),
        "min_p": fields.number("min_p", 0.0),
        "repetition_penalty": fields.number("repetition_penalty", 1.0),
    }
    try:
        return Settings(**values), None if seed < 0 else seed
    except ValueError as error:
        for problem in str(error).split("; "):
            fields.refuse(problem.partition("=")[0], problem)
        return Settings(), None


def _stop(fields: Fields, limits: Limits) -> tuple[str, ...]:
    """The strings that end a text."""
    value = fields.take("stop")
    strings = [] if value is None else [value] if isinstance(value, str) else value
    if (
        not isinstance(strings, list)
        or len(strings) > limits.num_stops
        or not all(
            isinstance(one, str) and 1 <= len(one) <= limits.stop_characters and _is_text(one)
            for one in strings
        )
    ):
        fields.refuse(
            "stop",
            f"stop must be a string or up to {limits.num_stops} of them, each of 1 to "
            f"{limits.stop_characters} characters",
        )
        return ()
    return tuple(strings)


def _tells_usage(fields: Fields, streams: bool) -> bool:
    """What `stream_options` says."""
    options = fields.take("stream_options")
    if options is None:
        return False
    known = {"include_usage", "include_obfuscation"}
    if (
        not streams
        or not isinstance(options, dict)
        or not known.issuperset(options)
        or not all(value is None or isinstance(value, bool) for value in options.values())
    ):
        fields.refuse("stream_options", 'stream_options is {"include_usage": true}, with stream')
        return False
    return options.get("include_usage") is True


Prompt = str | tuple[int, ...]
"""A text, or tokens."""


def _prompts(fields: Fields, value: Any, served: Served) -> list[Prompt]:
    """The prompts, whichever way they are given."""
    is_list = isinstance(value, list) and len(value) > 0
    if isinstance(value, str) or (is_list and isinstance(value[0], int)):
        value, is_list = [value], True
    if not is_list:
        fields.refuse("prompt", "prompt must be a string, a list of tokens, or a list of those")
        return []
    found: list[Prompt] = []
    for one in value[: served.limits.num_texts + 1]:
        if isinstance(one, str) and _is_text(one):
            found.append(one)
        elif isinstance(one, list) and one and all(_is_token(token, served) for token in one):
            found.append(tuple(one))
        else:
            fields.refuse(
                "prompt",
                "a prompt must be Unicode text, or tokens, at least one, from 0 to "
                f"{served.vocab_size - 1}",
            )
            return []
    return found


def _is_token(value: Any, served: Served) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < served.vocab_size


def _is_text(value: str) -> bool:
    """Whether a string has no halves of surrogate pairs, which JSON may smuggle in."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _tokens(prompt: Prompt, served: Served) -> tuple[int, ...]:
    """The tokens of a prompt, which must not be too many."""
    try:
        found = served.trained.prompt_tokens(prompt) if isinstance(prompt, str) else prompt
    except UserError as error:
        raise Refused(400, one_line(error), "prompt") from error
    most = served.limits.max_prompt_tokens
    if len(found) > most:
        message = f"the prompt has {len(found)} tokens, and at most {most} are allowed"
        raise Refused(400, message, "prompt", "context_length_exceeded")
    return found


def _text(prompt: Prompt, served: Served) -> str:
    """The text of a prompt."""
    return prompt if isinstance(prompt, str) else served.trained.tokenizer.decode(list(prompt))
