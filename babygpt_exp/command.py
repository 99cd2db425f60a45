"""What all commands have in common: how they begin, and how they end without their result."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from babygpt_exp.errors import (
    ConfigError,
    OutOfMemoryError,
    RunInterrupted,
    UserError,
    exit_status,
    is_out_of_memory,
    one_line,
)


@contextmanager
def importing_torch() -> Iterator[None]:
    """A context to import torch in, and what builds on it.

    Its threads sleep then while they wait. Those that wait by spinning keep other processes off
    the cores, and those them: beside a second busy process small models train several times as
    fast when they sleep instead.

    The collector of garbage would look at all objects of these packages again and again while they
    become more, for a third of the time that starting takes. So it rests meanwhile, and leaves
    them alone from then on.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.collect()  # what is garbage now would stay
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """A context that ends the process with one line for every error that is no bug of ours."""
    try:
        yield
    except KeyboardInterrupt:
        leave(RunInterrupted("stopped by Ctrl-C"))
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        leave(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        leave(OutOfMemoryError())
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        leave(ConfigError(explained(error)))


def leave(error: Exception) -> NoReturn:
    """End the process with one line on standard error and the exit status of the error."""
    exit_code = exit_status(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        message, exit_code = explained(error), ConfigError.exit_code
    elif isinstance(error, OSError):  # a full disk, a folder that may not be written
        place = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror or one_line(error)}{place}"
    else:
        message = one_line(error)
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def explained(error: Exception) -> str:
    """An error of Hydra's in one line."""
    from babygpt_exp.explain import explain
    from babygpt_exp.resume import PRESET

    return explain(error, [word for word in sys.argv[1:] if word != f"experiment={PRESET}"])
