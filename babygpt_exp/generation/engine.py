"""The engine: a fixed number of slots, each of which writes a text.

A request may come at any step and leave at any step. Every step computes the same shapes, idle
slots included, and attention of a slot goes by its own length: what is computed for a request is
the same bit for bit whatever its neighbours are, in every precision, as long as the engine has
the same number of slots. Engines with other numbers of slots multiply matrices of other shapes,
which a CPU rounds differently in the last bits; in float32 that shows in a text only where two
tokens are as good as equal, in bfloat16 it does soon. A compiled engine attends over what the
longest text needs, and makes no promise of the last bits.

A text longer than the context: as long as prompt and text fit, each token sees all before it; a
longer prompt loses its beginning. The first token without a place is computed from the last half
of a context of tokens, which take the positions from 0 on, and so on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from babygpt_exp.generation.request import Request
from babygpt_exp.generation.sampler import Sampler
from babygpt_exp.generation.text import StopStrings, TextStream
from babygpt_exp.model import Decoder, Piece, Step, one_run, runs_of
from babygpt_exp.model.cache import Run
from babygpt_exp.tokenizer import TextTokenizer

FinishReason = Literal["stop", "length"]
"""`stop`: the end of text or a stop string has come; `length`: max_new_tokens have."""

COMPILE_OPTIONS: dict[str, Any] = {
    "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe
}
"""The model does not change while it writes: nothing of it is looked at again in each step."""

NUMBERS = itertools.count()
"""Of the engines of a process; an address is used again."""

MOST_GRAPHS = 64
"""Compiled steps in a process: one for each engine and each doubling of the longest text."""


@dataclass(frozen=True)
class Written:
    """A token that a step has added to a text."""

    slot: int
    """Where it was."""
    token: int
    """What it is; the end of text is the last one of a text and has no characters."""
    text: str
    """What can be shown now: whole characters, and nothing that may become a stop string."""
    logprob: float | None
    """Log of the model's own chance of it, before any filter; None if not asked for."""
    top_logprobs: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log chances, as many as asked for."""
    finish_reason: FinishReason | None
    """Why the text has ended, if it has; then its slot is free."""


@dataclass
class Text:
    """A text that is being written in a slot."""

    request: Request
    stream: TextStream
    stops: StopStrings
    tokens: list[int]
    """Prompt and what was added."""
    start: int
    """Where the tokens begin that the model sees: position 0 of the cache."""
    num_cached: int = 0
    """Of these, how many the cache has; 0 before the first step and when they were moved."""

    def make_room(self, context: int) -> None:
        """See no more tokens than there are positions: from the last half on, if need be."""
        if len(self.tokens) - self.start > context:
            self.start, self.num_cached = len(self.tokens) - (context + 1) // 2, 0

    @property
    def num_added(self) -> int:
        """Tokens added to the prompt."""
        return len(self.tokens) - len(self.request.prompt)


@dataclass
class Engine:
    """Writes up to `num_slots` texts at a time; not for several threads at once."""

    model: Decoder
    """What computes; see `for_writing` for the type of its weights."""
    tokenizer: TextTokenizer
    """Its tokenizer."""
    num_slots: int
    """Texts at a time; each step costs what this many cost."""
    cached: bool = True
    """Keep keys and values; without, every step computes all that a text sees, text by text."""
    compiled: bool = False
    """Compute steps by torch.compile: some 15 s for each doubling of the longest text."""
    texts: list[Text | None] = field(init=False)
    """What each slot writes."""

    def __post_init__(self) -> None:
        if self.num_slots < 1:
            raise ValueError(f"num_slots={self.num_slots} must be at least 1")
        self._number = next(NUMBERS)
        self._device = self.model.embedding.weight.device
        vocab_size = self.model.embedding.num_embeddings
        self._num_rows = num_rows(self.num_slots)
        self._sampler = Sampler(self._num_rows, vocab_size, self._device)
        self.texts = [None] * self.num_slots
        if self.cached:
            self._cache = self.model.new_cache(self._num_rows, self._cache_type())
        self._step_logits = self._compiled_step() if self.compiled else self._logits_of_step

    def _compiled_step(self) -> Callable[..., Tensor]:
        """`_logits_of_step`, compiled where a shape is met first.

        Weights are constants of what is compiled, on a CPU copies in the order that its products
        read fastest: a step of `baby` in bfloat16 takes 1.5 ms instead of 3.5 ms on two cores.
        """
        from torch._inductor import config as inductor  # 1.6 s that others need not wait

        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(MOST_GRAPHS, dynamo.recompile_limit)
        step = torch.compile(self._logits_of_step, dynamic=False, options=COMPILE_OPTIONS)
        frozen: Callable[..., Tensor] = inductor.patch(freezing=True)(step)
        return frozen

    def _cache_type(self) -> torch.dtype:
        """The type of keys and values: the model's, but float32 where a CPU does not compile.

        There torch attends over bfloat16 up to six times as slowly: 8 heads over 512 positions
        in 246 instead of 44 us.
        """
        if self._device.type == "cpu" and not self.compiled:
            return torch.float32
        return self.model.embedding.weight.dtype

    @property
    def num_free(self) -> int:
        """Slots that a request can get."""
        return self.texts.count(None)

    @property
    def is_busy(self) -> bool:
        """Whether a step has anything to do."""
        return self.num_free < self.num_slots

    def add(self, request: Request) -> int:
        """Give a request a slot; its prompt is computed in the next step.

        ValueError for tokens that the model does not have, RuntimeError if no slot is free.
        """
        if not all(0 <= token < self.model.embedding.num_embeddings for token in request.prompt):
            raise ValueError("the prompt has tokens that the model does not know")
        if None not in self.texts:
            raise RuntimeError("no slot is free")
        slot = self.texts.index(None)
        self.texts[slot] = Text(
            request=request,
            stream=TextStream(self.tokenizer),
            stops=StopStrings(request.stop),
            tokens=list(request.prompt),
            start=max(0, len(request.prompt) - self.model.context),
        )
        self._sampler.begin(slot, request.settings, request.prompt)
        return slot

    def cancel(self, slot: int) -> None:
        """Make a slot free, whatever it writes."""
        self.texts[slot] = None
        self._sampler.end(slot)

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Add a token to every text."""
        busy = {slot: text for slot, text in enumerate(self.texts) if text is not None}
        if not busy:
            return []
        for text in busy.values():
            text.make_room(self.model.context)
        logits = self._next_logits(busy) if self.cached else self._uncached_logits(busy)
        tokens = self._sampler.draw(logits)
        logprobs = self._logprobs(logits, tokens, busy)
        return [self._write(slot, tokens[slot], *logprobs.get(slot, (None, ()))) for slot in busy]

    def _next_logits(self, busy: dict[int, Text]) -> Tensor:
        """Logits (B, V) behind each text: one more token each, then texts that are new.

        Idle slots and new texts take part in the step with a token at position 0, which is
        overwritten before anybody looks at it.
        """
        tokens, positions = [0] * self._num_rows, [0] * self._num_rows
        going_on = {slot: text for slot, text in busy.items() if text.num_cached}
        for slot, text in going_on.items():
            tokens[slot], positions[slot] = text.tokens[-1], text.num_cached
            text.num_cached += 1
        if going_on:
            runs = (one_run if self.compiled else runs_of)(positions, self.model.context)
            columns = self._column(tokens), self._column(positions)
            logits = self._step_logits(*columns, runs, self._number)
        else:
            vocab_size = self.model.embedding.num_embeddings
            logits = torch.zeros(self._num_rows, vocab_size, device=self._device)
        for slot in busy.keys() - going_on.keys():
            text = busy[slot]
            seen = text.tokens[text.start :]
            hidden = self.model.hidden(
                torch.tensor([seen], device=self._device), Piece(self._cache, slot, 0, len(seen))
            )
            logits[slot] = self.model.logits(hidden[:, -1])[0]
            text.num_cached = len(seen)
        return logits

    def _logits_of_step(
        self, tokens: Tensor, positions: Tensor, runs: tuple[Run, ...], engine: int
    ) -> Tensor:
        """Logits (B, V) behind tokens (B, 1) at positions (B, 1).

        What was made for one `engine` must not compute for another, whose model is another: the
        compiler looks again at what the code makes use of, and only at that.
        """
        assert engine >= 0
        hidden = self.model.hidden(tokens, Step(self._cache, positions, runs))
        return self.model.logits(hidden[:, 0])

    def _uncached_logits(self, busy: dict[int, Text]) -> Tensor:
        """Logits (B, V) behind each text, all of it computed anew."""
        vocab_size = self.model.embedding.num_embeddings
        logits = torch.zeros(self._num_rows, vocab_size, device=self._device)
        for slot, text in busy.items():
            tokens = torch.tensor([text.tokens[text.start :]], device=self._device)
            logits[slot] = self.model.logits(self.model.hidden(tokens)[:, -1])[0]
        return logits

    def _logprobs(
        self, logits: Tensor, tokens: list[int], busy: dict[int, Text]
    ) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """Log chance of each token and of the likeliest ones, for slots that want to know."""
        found = {}
        for slot, text in busy.items():
            count = text.request.num_top_logprobs
            if count is not None:
                row = logits[slot].log_softmax(-1)
                top = row.topk(min(count, row.numel()))
                pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                found[slot] = (float(row[tokens[slot]]), tuple(pairs))
        return found

    def _write(
        self,
        slot: int,
        token: int,
        logprob: float | None,
        top_logprobs: tuple[tuple[int, float], ...],
    ) -> Written:
        """Put a token behind a slot's text, and free the slot if that ends it."""
        text = self.texts[slot]
        assert text is not None
        reason: FinishReason | None = None
        is_end = token == self.tokenizer.end_of_text
        piece = ""
        if not is_end:
            text.tokens.append(token)
            piece = text.stream.add(token)
        is_last = is_end or text.num_added == text.request.max_new_tokens
        if is_last:
            piece += text.stream.end()
        shown, is_stopped = text.stops.add(piece)
        if is_last and not is_stopped:
            shown += text.stops.end()
        if is_end or is_stopped:
            reason = "stop"
        elif is_last:
            reason = "length"
        if reason is not None:
            self.cancel(slot)
        return Written(slot, token, shown, logprob, top_logprobs, reason)

    def _column(self, values: list[int]) -> Tensor:
        """A number of each slot, (B, 1)."""
        return torch.tensor(values, device=self._device)[:, None]


def num_rows(num_slots: int) -> int:
    """Rows that an engine computes for its slots: a multiple of four, but for fewer than that.

    In float32 on two threads other numbers leave a row over, whose products are then rounded in
    another way than those of the rows before it: a text would depend on its slot.
    """
    return num_slots if num_slots < 4 else -(-num_slots // 4) * 4
