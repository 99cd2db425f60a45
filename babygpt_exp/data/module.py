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
from babygpt_exp.errors import StreamLostError, UserError
from babygpt_exp.tokenizer import TextTokenizer, obtain_tokenizer
from streamer.access import AccessError, new_token
from streamer.client import StreamClient, StreamError
from streamer.eir.client import EirClient
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
    ) -> None:
        super().__init__()
        self.config = config
        self.rows = micro_batch_tokens // config.model.context
        self.log_path = log_path
        self.say = say
        self.plan: dict[str, Any] | None = None
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
        data = self.config.data
        try:
            urls, token = data.urls, None
            if data.embedded_sources:
                token = new_token()
                server = EmbeddedStreamer(
                    data.embedded_sources,
                    token=token,
                    log_path=self.log_path,
                    **data.embedded_options,
                )
                urls = [self._open.enter_context(server).url]
            self._client = data.client(urls, token, self.say)
            self._open.callback(self._client.close)
            self.tokenizer = obtain_tokenizer(self.config.tokenizer, self._documents)
            self._tokenizer_hash = self._client.upload_tokenizer(self.tokenizer.json)
            self.validation_batches = list(self._read_validation())
        except (StreamError, EmbeddedStreamerError, AccessError) as error:
            raise UserError(str(error)) from error

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
            fraction=data.validation_fraction,
            salt=data.validation_salt,
            max_documents=count,
        )

    def new_plan(self, *, shuffled: bool) -> dict[str, Any]:
        """What the streams of this run are made of; the server adds the sources."""
        data = self.config.data
        shuffle = {"shards": data.shuffle_shards, "seed": data.seed} if shuffled else None
        return {
            "version": 2,
            "tokenizer": {
                "hash": self._tokenizer_hash,
                "eot_id": self.tokenizer.end_of_text,
                "vocab_size": self.tokenizer.vocab_size,
            },
            "sequence_length": self.config.model.context,
            "validation": {"fraction": data.validation_fraction, "salt": data.validation_salt},
            "shuffle": shuffle,
        }

    def _read_validation(self) -> Iterator[MicroBatch]:
        """The first `run.eval_tokens` of the validation split in their natural order."""
        missing = max(1, self.config.run.eval_tokens // self.config.model.context)
        stream = self.client.open(
            plan=self.new_plan(shuffled=False), split="validation", batch=self.rows, epochs=1
        )
        token_bytes: torch.Tensor | None = None
        for batch in stream:
            batch = replace(batch, tokens=batch.tokens[:missing], lengths=batch.lengths[:missing])
            if token_bytes is None:
                text = self.tokenizer.decode(batch.tokens[0].tolist())
                token_bytes = torch.tensor(self.tokenizer.token_bytes(text), dtype=torch.float64)
            for part in split(batch, self.rows):
                counted = part.targets[part.targets >= 0]
                yield replace(part, text_bytes=float(token_bytes[counted].sum()))
            missing -= len(batch.tokens)
            if missing <= 0:
                break
        stream.close()

    def train_dataloader(self) -> Iterator[MicroBatch]:
        """Micro-batches from the saved cursor on, without end."""
        run, data = self.config.run, self.config.data
        try:
            stream = self.client.open(
                plan=self.plan or self.new_plan(shuffled=True),
                split="train",
                cursor=self.cursor,
                batch=run.batch_tokens // self.config.model.context,
            )
            self.plan = stream.plan
            while True:
                start = time.perf_counter()
                batch = next(stream)
                self.waited_seconds += time.perf_counter() - start
                self.reconnects = stream.reconnects
                yield from split(batch, self.rows)
        except StreamError as error:
            hint = f"; see {self.log_path}" if data.embedded_sources else ""
            raise StreamLostError(f"{error}{hint}") from error

    def val_dataloader(self) -> DataLoader[MicroBatch]:
        """The same batches for every validation."""
        return DataLoader(self.validation_batches, batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: MicroBatch, device: torch.device, dataloader_idx: int
    ) -> MicroBatch:
        """Lightning's hook."""
        return batch.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The plan, and the cursor behind the last batch that was trained on."""
        return {"plan": self.plan, "cursor": self.cursor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.plan, self.cursor = state_dict["plan"], state_dict["cursor"]
