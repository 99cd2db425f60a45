"""The record of a run: from its first summary to its last, whatever happens between."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from babygpt_exp.config import Config
from babygpt_exp.errors import RunInterrupted, UserError, exit_status, one_line
from babygpt_exp.folder import RunFolder
from babygpt_exp.job import Job
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.summary import first_summary
from babygpt_exp.tracking import RunLogger


class Record:
    """A context that writes summary.json first and last, and closes the loggers truly.

    `loggers` and `measured` are set when they exist; what they know at the end is recorded
    also of a run that failed. A run that goes on begins its record only when it has been put
    back to its checkpoint: until then its folder stays as it was. Only the first rank writes; if
    another one failed before it, that one's error is the run's.
    """

    def __init__(self, config: Config, job: Job, ranks: Ranks | None = None) -> None:
        self.job, self.ranks = job, ranks or Ranks()
        self.folder = RunFolder(job.folder)
        self.loggers: list[RunLogger] = []
        self.measured: Callable[[], dict[str, Any]] = dict
        self.summary = first_summary(config.seed, job.overrides) | job.names
        self.has_begun = False

    def __enter__(self) -> Record:
        if self.job.saved is None:
            self.begin()
        return self

    def begin(self) -> None:
        """Write the first summary."""
        if not self.ranks.is_first:
            return
        self.has_begun = True
        self.folder.start_summary(self.summary)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        blamed: UserError | None = None
        if error is None:
            self.summary |= {"status": "completed", "error": None}
        elif isinstance(error, KeyboardInterrupt | RunInterrupted):
            self.summary |= {"status": "interrupted", "error": one_line(error)}
        else:
            own = f"{type(error).__name__}: {one_line(error)}"
            cause = self.ranks.first_error(own)
            self.summary |= {"status": "failed", "error": cause}
            if cause != own:
                blamed = UserError(cause)
        try:
            self.summary |= self.measured()
            for logger in self.loggers:
                logger.finish(exit_status(error), self.summary)
        finally:
            if self.has_begun:
                self.folder.end_summary(self.summary)
        if blamed is not None:
            raise blamed from error
