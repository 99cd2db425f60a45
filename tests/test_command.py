"""What all commands say at their end, if it is not their result."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import ConfigError, OutOfMemoryError, RunInterrupted, UserError
from babygpt_exp.parallel.ranks import faults_named

NO_ROOM = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (UserError("no\nroom"), 1, "error: no room\n"),
        (ConfigError("no key"), 2, "error: no key\n"),
        (RunInterrupted("told to", 15), 143, "error: told to\n"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
        (OSError(28, "No space left on device", "a/b"), 1, "error: No space left on device: a/b\n"),
        *((error, 1, f"error: {OutOfMemoryError()}\n") for error in NO_ROOM),
    ],
)
def test_one_line(
    error: BaseException, exit_code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, errors_in_a_line():
        raise error
    assert end.value.code == exit_code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [RuntimeError("ours"), ValueError("ours"), KeyError("ours")])
def test_bugs_of_ours_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="ours"), errors_in_a_line():
        raise error


@pytest.mark.parametrize("error", NO_ROOM)
def test_run_without_memory_says_so(error: RuntimeError) -> None:
    with pytest.raises(OutOfMemoryError, match="micro_batch_tokens"), faults_named():
        raise error


class Cyclic:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.own = self


def test_collector_rests_for_imports_and_leaves_what_they_bring_alone() -> None:
    before, garbage = gc.get_freeze_count(), weakref.ref(Cyclic())
    with importing_torch():
        assert garbage() is None
        assert not gc.isenabled()
        kept = [Cyclic() for _ in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + len(kept)
