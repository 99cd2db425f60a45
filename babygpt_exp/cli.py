"""The command line of training: Hydra composes, `config.load` checks, `train` runs.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 and 143 stopped by Ctrl-C and SIGTERM.
What is slow to import (torch, Lightning) is imported where it is needed: help comes at once.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from babygpt_exp.command import errors_in_a_line, importing_torch, leave
from babygpt_exp.errors import ConfigError, RunInterrupted, UserError, one_line
from babygpt_exp.folder import RunFolder, remove_empty
from babygpt_exp.job import TYPED, Job
from babygpt_exp.options import CONF, folded
from babygpt_exp.pruner import PrunedValue, RunPruned
from babygpt_exp.resume import with_saved_config

if TYPE_CHECKING:
    from babygpt_exp.config import Config


COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}
"""Hydra's words for shell completion."""


def main() -> None:
    """Entry point of `babygpt` and of `python -m babygpt_exp`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here whole, not as text
    with errors_in_a_line():
        if COMPLETION & {*sys.argv}:
            complete()
        elif {"-h", "--help"} & {*sys.argv}:
            show_help()
        else:
            sys.argv[1:] = with_saved_config(sys.argv[1:])
            TYPED[:] = sys.argv[1:]
            compose_and_run()


def complete() -> None:
    """What the shell asks for while somebody types: Hydra's answer, and no word of an error.

    A line that does not compose yet has no completions. Hydra takes the command's name from
    `sys.argv`; `python -m babygpt_exp` has none that a shell could complete, so it is `babygpt`.
    """
    if Path(sys.argv[0]).name == "__main__.py":
        sys.argv[0] = "babygpt"
    if any(word.startswith("query=") for word in sys.argv):
        os.environ.setdefault("COMP_LINE", "babygpt ")
        with suppress(Exception), redirect_stderr(io.StringIO()):
            compose_and_run()
        return
    try:
        compose_and_run()
    except ValueError as error:
        raise ConfigError(
            "-sc needs one of install=SHELL, uninstall=SHELL and query=SHELL; "
            "SHELL is bash, zsh or fish"
        ) from error


def show_help() -> None:
    """Hydra's help by the template of conf/config.yaml; long lines are folded."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            compose_and_run()
    finally:
        print("\n".join(map(folded, text.getvalue().rstrip().split("\n"))))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_run(composed: DictConfig) -> float:
    """One job; returns its final bits a byte, which a sweeper minimizes.

    An error ends the process here, in one line.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_in_sweep(composed, folder)
    try:
        resume = composed.get("resume") is not None
        return run(checked(composed, resume), folder, resume=resume)
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
    resume = RunFolder(folder).config.exists()
    try:
        try:
            config = checked(composed, resume)
        except UserError as error:
            record_refusal(folder, overrides, one_line(error))
            raise
        return run(config, folder, resume=resume)
    except RunPruned as error:
        print(one_line(error), flush=True)
        return PrunedValue(error.bits_per_byte)
    except RunInterrupted as error:
        leave(error)
    except (UserError, OSError) as error:
        raise UserError(one_line(error)) from error
    finally:
        refresh_report(folder.parent)


def checked(composed: DictConfig, resume: bool) -> Config:
    """The config, with everything checked that can be before a run is started or goes on."""
    with importing_torch():
        from babygpt_exp.compose import load_composed
        from babygpt_exp.hardware import choose_machine
        from babygpt_exp.parallel.ranks import starts_ranks
        from babygpt_exp.tokenizer import FileConfig, check_is_file
        from babygpt_exp.tracking.config import WandbConfig

    config = load_composed(composed, HydraConfig.get().overrides.task)
    choose_machine(config.hardware, config.precision)
    starts_ranks(config)
    if isinstance(config.tokenizer, FileConfig) and not resume and config.init_from is None:
        check_is_file(Path(config.tokenizer.path))  # else the checkpoint has it
    if isinstance(config.logger, WandbConfig) and config.logger.mode == "online":
        from babygpt_exp.tracking.account import check_key

        check_key()
    return config


def run(config: Config, folder: Path, *, resume: bool) -> float:
    """Train in a folder that Hydra has made, or go on with the run that is there."""
    with importing_torch():
        from babygpt_exp.parallel.ranks import starts_ranks

        if starts_ranks(config):
            from babygpt_exp.parallel.start import start as run
        else:
            from babygpt_exp.run import run
    return run(config, new_job(folder), resume=resume)


def new_job(folder: Path) -> Job:
    """The place of a run in a folder that Hydra has made."""
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
