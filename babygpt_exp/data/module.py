"""The DataModule: a streamer, a tokenizer and the two streams of a run.

The embedded streamer is a process of its own; the client's event loop lives in a thread of
its own and hands over whole batches. Each batch carries its cursor; what is saved is the
cursor behind the last batch that was trained on, never what was fetched ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch, split
from babygpt_exp.data.config import ShuffledConfig
from babygpt_exp.data.instructions import count_cut, template_of
from babygpt_exp.data.shared import Address, shared
from babygpt_exp.errors import StreamLostError, UserError
from babygpt_exp.model import IGNORE
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.tokenizer import TextTokenizer, obtain_tokenizer
from streamer.access import AccessError, new_token
from streamer.client import Stream, StreamClient, StreamError
from streamer.eir.client import EirClient
from streamer.eir.stream import EirStream
from streamer.embedded import EmbeddedStreamer, EmbeddedStreamerError


class StreamDataModule(L.LightningDataModule):
    """Batches for training without end, and the same few for every validation."""

    tokenizer: TextTokenizer

    def __init__(
        self,
        config: Config,
        *,
        micro_batch_tokens: int,
        log_path: Path,
        say: Callable[[str], None],
        tokenizer: TextTokenizer | None = None,
        ranks: Ranks | None = None,
        wants_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.config = config
        self.ranks = ranks or Ranks()
        self.wants_to_stop = wants_to_stop
        self.all_stop = False
        self.rows = micro_batch_tokens // config.model.context
        self.log_path = log_path
        self.say = say
        self._saved_tokenizer = tokenizer  # of the run that this one goes on from; not made anew
        self.plan: dict[str, Any] | None = None
        self.validation_plan: dict[str, Any] | None = None
        self.cursor: dict[str, Any] | None = None
        self.waited_seconds = 0.0
        self.reconnects = 0
        self.validation_batches: list[MicroBatch] = []
        self._tokenizer_hash = ""
        self._open = ExitStack()
        self._client: StreamClient | EirClient | None = None

    def connect(self) -> None:
        """Start the streamer (unless there is one), get the tokenizer and the validation blocks.

        Raises UserError with one line if there is no streamer, no corpus or no tokenizer.
        """
        try:
            self._client = self._connected(self._open, self.config.data.embedded_sources)
            self.tokenizer = self._saved_tokenizer or self.ranks.from_first(
                lambda: obtain_tokenizer(self.config.tokenizer, self._documents)
            )
            self._tokenizer_hash = self._client.upload_tokenizer(self.tokenizer.json)
            self.validation_batches = list(self._read_validation())
        except (StreamError, EmbeddedStreamerError, AccessError) as error:
            raise UserError(str(error)) from error

    def _connected(
        self, stack: ExitStack, sources: list[str], log_path: Path | None = None
    ) -> StreamClient | EirClient:
        """A client of a streamer of `sources`: a new one, or the one that a sweep has; without
        sources, of the one that runs already.

        Leaving `stack` ends what was started.
        """
        data = self.config.data
        urls, token = data.urls, None
        if sources:
            address = shared(sources, data.embedded_options) or self.ranks.from_first_of_node(
                lambda: self._start(stack, sources, log_path or self.log_path)
            )
            urls, token = [address.url], address.token
        client = data.client(urls, token, self.say)
        stack.callback(client.close)
        return client

    def _start(self, stack: ExitStack, sources: list[str], log_path: Path) -> Address:
        """A streamer of this machine."""
        node = self.ranks.rank // self.ranks.local_world
        server = EmbeddedStreamer(
            sources,
            token=new_token(),
            log_path=log_path.with_stem(f"{log_path.stem}-{node}") if node else log_path,
            **self.config.data.embedded_options,
        )
        stack.enter_context(server)
        return Address(server.url, server.token)

    def close(self) -> None:
        """End the streams, the client and the embedded streamer."""
        self._open.close()
        self._client = None

    @property
    def client(self) -> StreamClient | EirClient:
        """The connected client."""
        if self._client is None:
            raise RuntimeError("connect() first")
        return self._client

    def _documents(self, count: int) -> list[str]:
        data = self.config.data
        return self.client.documents(
            split="train",
            fraction=data.held_out_fraction,
            salt=data.validation_salt,
            max_documents=count,
        )

    def new_plan(self, *, fraction: float, shuffled: bool) -> dict[str, Any]:
        """What a stream of this run is made of; the server adds the sources.

        `fraction` is the share of its documents that is validation text.
        """
        data = self.config.data
        shuffle = None
        if shuffled and isinstance(data, ShuffledConfig):
            shuffle = {"shards": data.shuffle_shards, "seed": data.seed}
        return {
            "version": 2,
            "tokenizer": {
                "hash": self._tokenizer_hash,
                "eot_id": self.tokenizer.end_of_text,
                "vocab_size": self.tokenizer.vocab_size,
            },
            "sequence_length": self.config.model.context,
            "validation": {"fraction": fraction, "salt": data.validation_salt},
            "shuffle": shuffle,
        }

    def _read_validation(self) -> Iterator[MicroBatch]:
        """The first `run.eval_tokens` of the validation text in their natural order, or all."""
        with ExitStack() as stack:
            stream = self._open_validation(stack)
            stack.callback(stream.close)
            stack.callback(self.ranks.wait)  # its streamer is that of others too
            limit = self.config.run.eval_tokens
            missing = None if limit is None else max(1, limit // self.config.model.context)
            sizes: torch.Tensor | None = None
            prompt_end, num_cut = self._prompt_end(stream), 0
            for batch in stream:
                rows = slice(missing)
                batch = replace(batch, tokens=batch.tokens[rows], lengths=batch.lengths[rows])
                if sizes is None:
                    text = self.tokenizer.decode(batch.tokens[0].tolist())
                    sizes = torch.tensor(self.tokenizer.token_sizes(text), dtype=torch.float64)
                if prompt_end is not None:
                    num_cut += count_cut(batch.tokens, batch.lengths, prompt_end)
                for part in split(batch, self.rows, prompt_end):
                    counted = part.targets[part.targets >= 0]
                    yield replace(part, text_bytes=float(sizes[counted].sum()))
                if missing is not None:
                    missing -= len(batch.tokens)
                    if missing <= 0:
                        break
            if num_cut:
                self.say(
                    f"note: {num_cut} validation samples are longer than model.context="
                    f"{self.config.model.context} and lose the end of their response; of the "
                    f"others see samples_cut in {self.log_path}"
                )

    def _open_validation(self, stack: ExitStack) -> Stream | EirStream:
        """The stream of the validation text; leaving `stack` ends what only it needs."""
        data, client, fraction = self.config.data, self.client, self.config.data.held_out_fraction
        if data.validation_sources:
            log_path = self.log_path.with_stem(f"{self.log_path.stem}-validation")
            client = self._connected(stack, data.validation_sources, log_path)
            client.upload_tokenizer(self.tokenizer.json)
            fraction = 1.0
        plan = self.new_plan(fraction=fraction, shuffled=False)
        stream = client.open(plan=plan, split="validation", batch=self.rows, epochs=1)
        self.validation_plan = stream.plan
        return stream

    def _prompt_end(self, stream: Stream | EirStream) -> int | None:
        """The token behind each prompt of a stream of instructions; None of text."""
        return None if template_of(stream.plan) is None else self.tokenizer.end_of_text

    def train_dataloader(self) -> Iterator[MicroBatch]:
        """Micro-batches from the saved cursor on, without end."""
        run, data = self.config.run, self.config.data
        try:
            stream = self.client.open(
                plan=self.plan or self.new_plan(fraction=data.held_out_fraction, shuffled=True),
                split="train",
                cursor=self.cursor,
                batch=run.batch_tokens // self.config.model.context,
                rank=self.ranks.rank,
                world=self.ranks.world,
            )
            self.plan = stream.plan
            prompt_end = self._prompt_end(stream)
            while True:
                start = time.perf_counter()
                batch = next(stream)
                self.waited_seconds += time.perf_counter() - start
                self.reconnects = stream.reconnects
                yield from self._in_common(list(split(batch, self.rows, prompt_end)))
        except StreamError as error:
            hint = f"; see {self.log_path}" if self.log_path.exists() else ""
            raise StreamLostError(f"{error}{hint}") from error

    def _in_common(self, parts: list[MicroBatch]) -> list[MicroBatch]:
        """A rank's part of a batch, with the counts of the whole one: the mean is over all targets,
        and the last part counts what the other ranks have too.

        This is where ranks meet each step, so that they also agree here on whether to stop.
        """
        if self.ranks.world == 1:
            return parts
        own = [sum(p.num_tokens for p in parts), sum(p.num_targets for p in parts)]
        *total, stop = self.ranks.sum([*own, self.wants_to_stop()])
        self.all_stop = stop > 0
        share = max(1.0, total[1]) / (len(parts) * self.ranks.world)
        parts = [replace(part, share_targets=share) for part in parts]
        parts[-1].num_tokens += int(total[0]) - own[0]
        parts[-1].num_targets += int(total[1]) - own[1]
        return parts

    def val_dataloader(self) -> DataLoader[MicroBatch]:
        """The same batches for every validation; they take no random number from the training."""
        batches: Any = self._own_validation()
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def _own_validation(self) -> list[MicroBatch]:
        """Every W-th of the validation batches; as many on each rank, an empty one if need be."""
        rank, world = self.ranks.rank, self.ranks.world
        own = self.validation_batches[rank::world]
        if len(own) < -(-len(self.validation_batches) // world):
            model = self.validation_batches[0]
            own.append(replace(model, targets=torch.full_like(model.targets, IGNORE)))
        return own

    def transfer_batch_to_device(
        self, batch: MicroBatch, device: torch.device, dataloader_idx: int
    ) -> MicroBatch:
        """Lightning's hook."""
        return batch.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The plans, and the cursor behind the last batch that was trained on."""
        return {
            "plan": self.plan,
            "cursor": self.cursor,
            "validation_plan": self.validation_plan,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the validation text has been read by then."""
        self.plan, self.cursor = state_dict["plan"], state_dict["cursor"]
