"""Errors that a user can cause: one line each, that says what to do."""

from __future__ import annotations

import signal


class UserError(Exception):
    """What a user can put right; printed as one line, without a traceback."""

    exit_code = 1
    """Exit status of the process: 1 for what fails at run time."""


class ConfigError(UserError):
    """A configuration that can not run; raised before anything is started."""

    exit_code = 2


class StreamLostError(UserError):
    """A streamer that is gone for good, between two steps of the training."""


class RunInterrupted(UserError):
    """A run that was asked to stop, by Ctrl-C or by a scheduler."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no room for a tensor; on a CPU its words alone tell."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


class OutOfMemoryError(UserError):
    """No room for a tensor, on a GPU or in this machine."""

    def __init__(self) -> None:
        super().__init__(
            "out of memory; lower hardware.micro_batch_tokens (--batch of evaluate, --num-samples "
            "of generate), or take a smaller model"
        )


def one_line(error: BaseException) -> str:
    """The text of an error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def exit_status(error: BaseException | None) -> int:
    """Exit status of a process that ends with this error, or with none."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, UserError) else UserError.exit_code


def death(code: int) -> str:
    """In words, how a process ended that left no result: by exit status, or by minus a signal."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
