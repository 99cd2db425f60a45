"""Samples that have come and were not trained on yet, for whatever else is made of them first."""

from __future__ import annotations

import asyncio

from streamer.eir.source import SampleSource
from streamer.transport import StreamError

MAX_KEPT_BYTES = 256 << 20
"""Characters of text that may be read before training, about its bytes."""


class Tape:
    """All samples of a server in order; what is looked at stays, what is taken is gone.

    A server can not be asked for the same samples twice, so those that a tokenizer is trained on
    and validation text is found among are kept for the training that follows.
    """

    def __init__(self, source: SampleSource) -> None:
        self.source = source
        self._entries: list[str | None] = []  # None is the end of a pass of the server
        self._first = 0  # number of the first entry since the beginning
        self._kept_bytes = 0
        self._pulling: asyncio.Task[None] | None = None

    async def look(self, number: int) -> tuple[list[str], int]:
        """Samples from a number on, and the number after them; none at the end of a pass."""
        number = max(number, self._first)
        while number >= self._first + len(self._entries):
            await self._more()
            number = max(number, self._first)
        found = self._group(number - self._first)
        return found, number + max(1, len(found))

    async def take(self) -> list[str]:
        """The first samples, to be kept no longer; none at the end of a pass.

        The next are asked for at once, so that they come while these are used; not so the next
        pass, which somebody has to want.
        """
        while not self._entries:
            await self._more()
        taken = self._group(0)
        num_entries = max(1, len(taken))
        del self._entries[:num_entries]
        self._first += num_entries
        self._kept_bytes -= sum(map(len, taken))
        if taken and not self._entries:
            self._begin()
        return taken

    async def close(self) -> None:
        """Gives up what is being asked for."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        await self.source.disconnect()

    def _group(self, index: int) -> list[str]:
        """At most as many samples as a request gives, up to the end of the pass."""
        found = []
        for entry in self._entries[index : index + self.source.options.batch_size]:
            if entry is None:
                break
            found.append(entry)
        return found

    def _begin(self) -> asyncio.Task[None]:
        if self._pulling is None:
            self._pulling = asyncio.create_task(self._pull())
        return self._pulling

    async def _more(self) -> None:
        """Waits for the request that is under way; it goes on if we are told to stop."""
        pulling = self._begin()
        try:
            await asyncio.shield(pulling)
        finally:
            if pulling.done() and self._pulling is pulling:
                self._pulling = None

    async def _pull(self) -> None:
        texts = await self.source.read()
        self._kept_bytes += sum(map(len, texts))
        if self._kept_bytes > MAX_KEPT_BYTES:
            limit = f"{MAX_KEPT_BYTES >> 20} MiB of text were read before training"
            raise StreamError(
                "limit", "", f"{limit}: ask for less validation text, or hold out more"
            )
        self._entries += texts or [None]
