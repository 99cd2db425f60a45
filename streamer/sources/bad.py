"""What is done with documents that cannot be read: the first ends the reading, or all are counted.

Only what the bytes themselves say is bad. A disk or a network that fails is an error always.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from streamer.errors import SourceError, one_line

log = logging.getLogger(__name__)


@dataclass
class BadDocuments:
    """The bad documents of one shard, or of one file as it is decompressed."""

    name: str
    """The file, as it may be shown."""
    is_skipping: bool
    """Whether they are left out; the first one is an error otherwise."""
    num_documents: int = 0
    """How many were left out."""
    first: str = ""
    """What was wrong with the first."""

    def add(self, place: Callable[[], str], problem: str, num_documents: int = 1) -> None:
        """Counts `num_documents` at `place` ("line 7"); raises SourceError unless skipping."""
        if not self.is_skipping:
            raise SourceError(one_line(f"{self.name} {place()} {problem}"))
        if not self.num_documents:
            self.first = one_line(f"{place()} {problem}")
        self.num_documents += num_documents

    def report(self) -> None:
        """Logs them in one line, if there are any."""
        if self.num_documents:
            log.warning(
                "skipped %d bad documents of %s (first: %s)",
                self.num_documents,
                self.name,
                self.first,
            )
