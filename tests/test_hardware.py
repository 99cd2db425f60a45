"""When a model is compiled, and what is said where that can not be."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch._inductor.config
from experiment_harness import QUIET, Outcome

from babygpt_exp.errors import ConfigError
from babygpt_exp.hardware import (
    COMPILE_PAYS_SECONDS,
    EAGER_FLOPS,
    HardwareConfig,
    Machine,
    choose_compile,
    do_without_openssl,
)

LONG = 2 * COMPILE_PAYS_SECONDS * EAGER_FLOPS
AUTO = HardwareConfig("auto", "auto", "default", None, None)
CPU = Machine("cpu", "CPU", [])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all programs that can be found, a compiler alone."""
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with torch._inductor.config.patch(cpp_cache_precompile_headers=True):
        yield tmp_path


@pytest.mark.usefixtures("programs")
def test_long_runs_are_compiled() -> None:
    assert choose_compile(AUTO, CPU, LONG) == (True, "on")
    assert choose_compile(AUTO, CPU, LONG / 4)[0] is False
    assert choose_compile(replace(AUTO, compile=True), CPU, 0.0)[0] is True


@pytest.mark.usefixtures("programs")
def test_without_openssl_no_header_is_compiled_beforehand() -> None:
    do_without_openssl()
    assert torch._inductor.config.cpp_cache_precompile_headers is False


def test_with_openssl_it_is(programs: Path) -> None:
    (programs / "openssl").touch(mode=0o755)
    do_without_openssl()
    assert torch._inductor.config.cpp_cache_precompile_headers is True


def check_refusal(words: str) -> None:
    """A run goes on without compiling and says why; one that must be compiled is refused."""
    compiled, why = choose_compile(AUTO, CPU, LONG)
    assert not compiled
    assert re.search(words, why)
    with pytest.raises(ConfigError, match=words):
        choose_compile(replace(AUTO, compile=True), CPU, LONG)


def test_no_compiler(programs: Path) -> None:
    (programs / "g++").unlink()
    check_refusal("no C.* compiler found; install g")


@pytest.mark.usefixtures("programs")
def test_a_temporary_folder_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/a b")
    check_refusal("set TMPDIR")


def test_a_compiler_that_fails_is_done_without(
    babygpt: Callable[..., Outcome], environment: dict[str, str], tmp_path: Path
) -> None:
    env = environment | {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    outcome = babygpt(*QUIET, "hardware.compile=true", env=env, fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    assert "torch.compile failed, training goes on without it" in outcome.output
    assert "torch.compile failed, Muon goes on without it" in outcome.output
