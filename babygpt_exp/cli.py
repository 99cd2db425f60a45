"""The command line of training: Hydra composes, `config.load` checks, `train` runs.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 and 143 stopped by Ctrl-C and SIGTERM.
What is slow to import (torch, Lightning) is imported where it is needed: help comes at once, and
`main` can say how torch's threads should wait before there are any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from babygpt_exp.errors import ConfigError, RunInterrupted, UserError, one_line
from babygpt_exp.folder import RunFolder, remove_empty
from babygpt_exp.options import CONF
from babygpt_exp.pruner import PrunedValue, RunPruned
from babygpt_exp.resume import PRESET, with_saved_config

if TYPE_CHECKING:
    from babygpt_exp.config import Config
    from babygpt_exp.record import Job


TYPED: list[str] = []
"""What was typed, also in a job of a sweep, which goes by what was made of that."""


def main() -> None:
    """Entry point of `babygpt` and of `python -m babygpt_exp`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here whole, not as text
    # Threads that wait by spinning keep other processes off the cores, and those them: beside
    # a second busy process small models train several times as fast when they sleep instead.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with errors_in_a_line():
        sys.argv[1:] = with_saved_config(sys.argv[1:])
        TYPED[:] = sys.argv[1:]
        compose_and_run()


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """A context that ends the process with one line for every error that is no bug of ours."""
    try:
        yield
    except KeyboardInterrupt:
        leave(RunInterrupted("stopped by Ctrl-C"))
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        leave(error)
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        leave(ConfigError(explained(error)))


def leave(error: Exception) -> NoReturn:
    """End the process with one line on standard error and the exit status of the error."""
    exit_code = error.exit_code if isinstance(error, UserError) else UserError.exit_code
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

    return explain(error, [word for word in sys.argv[1:] if word != f"experiment={PRESET}"])


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_run(composed: DictConfig) -> float:
    """One job; returns its final bits a byte, which a sweeper minimizes.

    An error ends the process here, in one line.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_in_sweep(composed, folder)
    try:
        return run(checked(composed), folder, resume=composed.get("resume") is not None)
    except (UserError, OSError) as error:
        remove_empty(folder)
        leave(error)


def run_in_sweep(composed: DictConfig, folder: Path) -> float:
    """One job of a sweep: done already, to go on, or new. Its error is its own, a row."""
    from babygpt_exp.sweep.folder import finished, record_refusal, refresh_report

    overrides = list(HydraConfig.get().overrides.task)
    value = finished(folder, overrides)
    if value is not None:
        return value
    try:
        try:
            config = checked(composed)
        except UserError as error:
            record_refusal(folder, overrides, one_line(error))
            raise
        return run(config, folder, resume=RunFolder(folder).config.exists())
    except RunPruned as error:
        print(one_line(error), flush=True)
        return PrunedValue(error.bits_per_byte)
    except RunInterrupted as error:
        leave(error)
    except (UserError, OSError) as error:
        raise UserError(one_line(error)) from error
    finally:
        refresh_report(folder.parent)


def checked(composed: DictConfig) -> Config:
    """The config, with everything checked that can be before a run is started."""
    from babygpt_exp.config import load
    from babygpt_exp.hardware import choose_machine
    from babygpt_exp.initial import with_initial_model
    from babygpt_exp.parallel.ranks import starts_ranks
    from babygpt_exp.tracking.config import WandbConfig

    if composed.get("resume") is None:  # what goes on has the model in its own config
        composed = with_initial_model(composed, HydraConfig.get().overrides.task)
    config = load(composed)
    choose_machine(config.hardware, config.precision)
    starts_ranks(config)
    if isinstance(config.logger, WandbConfig) and config.logger.mode == "online":
        from babygpt_exp.tracking.account import check_key

        check_key()
    return config


def run(config: Config, folder: Path, *, resume: bool) -> float:
    """Train in a folder that Hydra has made, or go on with the run that is there."""
    from babygpt_exp.parallel.ranks import starts_ranks

    if starts_ranks(config):
        from babygpt_exp.parallel.start import start as run
    else:
        from babygpt_exp.run import run
    return run(config, new_job(folder), resume=resume)


def new_job(folder: Path) -> Job:
    """The place of a run in a folder that Hydra has made."""
    from babygpt_exp.record import Job
    from babygpt_exp.tracking.names import distinct_overrides, new_run_id

    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    sweep, distinct = None, overrides
    if hydra_config.mode == RunMode.MULTIRUN:
        sweep = "_".join(Path(hydra_config.sweep.dir).parts[-2:])
        distinct = distinct_overrides(overrides, TYPED)
    return Job(
        folder=folder,
        overrides=overrides,
        distinct=distinct,
        run_id=new_run_id(distinct, hydra_config.job.num if sweep else None),
        sweep=sweep,
    )
