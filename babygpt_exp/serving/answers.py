"""Answers to a request for completions, whole or as a stream of events, as OpenAI's client reads.

A stream has an event for every token: most of each is the same and is made once.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from babygpt_exp.generation.engine import FinishReason, Written
from babygpt_exp.generation.text import TextStream
from babygpt_exp.serving.completions import Asked
from babygpt_exp.serving.errors import Refused
from babygpt_exp.serving.worker import Job
from babygpt_exp.tokenizer import TextTokenizer

LEAST_LOGPROB = -9999.0
"""What a chance of nothing is told as, which JSON has no number for."""

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""

Pieces = list[tuple[int, Written]]
"""Tokens as they have come, each with the number of its text."""


class TokenNames:
    """What tokens are called in log chances.

    Their text if it is whole characters, their bytes as `bytes:\\xe6\\xb0` if not; with a tokenizer
    that is not byte-level, the tokenizer's own name.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer.token_bytes or {}
        self._names: dict[int, str] = {}
        self.are_bytes = bool(self._bytes)
        """Whether names, put one after the other, are the text."""

    def __getitem__(self, token: int) -> str:
        name = self._names.get(token)
        if name is None:
            name = self._names[token] = self._name(token)
        return name

    def _name(self, token: int) -> str:
        if token not in self._bytes:
            return self._tokenizer.inner.id_to_token(token) or f"token:{token}"
        try:
            return self._bytes[token].decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._bytes[token])


class Logprobs:
    """The log chances of a text's tokens, as far as they were not told yet."""

    def __init__(self, names: TokenNames, tokenizer: TextTokenizer, offset: int) -> None:
        self._names, self._stream, self._offset = names, TextStream(tokenizer), offset
        self._end = tokenizer.end_of_text
        self.clear()

    def clear(self) -> None:
        """They have been told."""
        self._found: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }

    def add(self, written: Written) -> None:
        """A token came."""
        found, names = self._found, self._names
        logprob = max(LEAST_LOGPROB, written.logprob or 0.0)
        top = {names[token]: max(LEAST_LOGPROB, value) for token, value in written.top_logprobs}
        found["tokens"].append(names[written.token])
        found["token_logprobs"].append(logprob)
        found["top_logprobs"].append(top | {names[written.token]: logprob})
        found["text_offset"].append(self._offset)
        if written.token != self._end:
            self._offset += len(self._stream.add(written.token))

    def payload(self) -> dict[str, list[Any]]:
        """As JSON has them."""
        return self._found


class Choice:
    """A text of an answer."""

    def __init__(self, index: int, echo: str, logprobs: Logprobs | None) -> None:
        self.index, self.text, self.logprobs = index, echo, logprobs
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None

    def add(self, written: Written) -> None:
        """A token came."""
        self.num_tokens += 1
        self.text += written.text
        self.finish_reason = written.finish_reason
        if self.logprobs is not None:
            self.logprobs.add(written)

    def payload(self) -> dict[str, Any]:
        """What is there and was not told yet."""
        return {
            "index": self.index,
            "text": self.text,
            "logprobs": None if self.logprobs is None else self.logprobs.payload(),
            "finish_reason": self.finish_reason,
        }

    def clear(self) -> None:
        """What is there has been told."""
        self.text = ""
        if self.logprobs is not None:
            self.logprobs.clear()


class Answer:
    """The texts of a request while they are being written; lives in the event loop."""

    def __init__(
        self, asked: Asked, model: str, names: TokenNames, tokenizer: TextTokenizer
    ) -> None:
        self._asked = asked
        self._about = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._choices = [
            Choice(
                index,
                echo,
                None if request.num_top_logprobs is None else Logprobs(names, tokenizer, len(echo)),
            )
            for index, (request, echo) in enumerate(zip(asked.requests, asked.echoes, strict=True))
        ]
        self.jobs = [
            Job(request, partial(self._take, index), self.fail)
            for index, request in enumerate(asked.requests)
        ]
        """What the worker is to do."""
        self.open_jobs = dict(enumerate(self.jobs))
        """Those that have not come to their end, by their number."""
        self._fresh: Pieces = []
        self._changed = asyncio.Event()
        self._error: Refused | None = None

    def _take(self, index: int, written: Written) -> None:
        self._fresh.append((index, written))
        if written.finish_reason is not None:
            del self.open_jobs[index]
        if self._asked.streams or not self.open_jobs:
            self._changed.set()

    def fail(self, reason: str, status: int = 500) -> None:
        """There will be no more."""
        self._error = Refused(status, reason)
        self._changed.set()

    async def pieces(self) -> AsyncIterator[Pieces]:
        """What has come, again and again to the end; Refused if that does not come."""
        is_open = True
        while is_open:
            await self._changed.wait()
            self._changed.clear()
            fresh, self._fresh, is_open = self._fresh, [], bool(self.open_jobs)
            yield fresh
            if is_open and self._error is not None:
                raise self._error

    async def whole(self) -> dict[str, Any]:
        """All of it, once it is there."""
        async for pieces in self.pieces():
            for index, written in pieces:
                self._choices[index].add(written)
        return {
            **self._about,
            "choices": [choice.payload() for choice in self._choices],
            "usage": self._usage(),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events of what has come, again and again to the last."""
        about = json.dumps(self._about)[:-1]
        usage = ', "usage": null}\n\n' if self._asked.tells_usage else "}\n\n"
        before, after = f'data: {about}, "choices": [', f"]{usage}"
        async for pieces in self.pieces():
            text = ""
            for index, written in pieces:
                choice = self._choices[index]
                choice.add(written)
                if choice.text or choice.logprobs or written.finish_reason:
                    text += f"{before}{json.dumps(choice.payload())}{after}"
                    choice.clear()
            if text:
                yield text.encode()
        if self._asked.tells_usage:
            last = {**self._about, "choices": [], "usage": self._usage()}
            yield f"data: {json.dumps(last)}\n\n".encode()
        yield DONE

    def _usage(self) -> dict[str, int]:
        """Tokens, those that end a text included."""
        prompt, added = self._asked.prompt_tokens, sum(one.num_tokens for one in self._choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": added,
            "total_tokens": prompt + added,
        }


def error_event(error: Refused) -> bytes:
    """The event that ends a stream whose texts do not come to their end."""
    return f"data: {json.dumps(error.payload())}\n\n".encode()
