"""A clean environment for every run, one tiny run for all to look at, and a small full disk."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from experiment_harness import (
    EXPERIMENTS,
    TINY,
    Outcome,
    Running,
    TinyRun,
    make_environment,
    run,
)
from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")
for _name in [name for name in os.environ if name.startswith(("WANDB_", "HYDRA_"))]:
    del os.environ[_name]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tensors as small as those of the tests
urllib.request.install_opener(  # its first use would keep what the environment is then
    urllib.request.build_opener(urllib.request.ProxyHandler({}))
)
torch.set_num_threads(1)  # the same here, where torch has read the other already


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that processes that share the files end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is there before the first test stays; no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _end_of_forks() -> Iterator[None]:
    """The server of forked runs ends with the tests."""
    yield
    EXPERIMENTS.close()


@pytest.fixture(scope="module", autouse=True)
def _process_as_before() -> Iterator[None]:
    """What a file's tests leave in this process, another file's do not find: variables and log.

    A command that is called here sets OMP_WAIT_POLICY, torch the folder of its cache as it first
    compiles, Hydra the log.
    """
    variables, log = dict(os.environ), logging.getLogger()
    handlers, level = list(log.handlers), log.level
    yield
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    for handler in log.handlers[:]:
        if handler not in handlers:
            log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of tokens of all runs of the tests."""
    return tmp_path_factory.mktemp("token-cache")


@pytest.fixture(scope="session")
def environment(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A clean environment; copy it to change it."""
    return make_environment(tmp_path_factory.mktemp("home"), cache)


@pytest.fixture
def babygpt(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Outcome]:
    """`python -m babygpt_exp ARGUMENTS` in an empty folder, to its end."""

    def start(
        *arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None, **options: bool
    ) -> Outcome:
        return run(*arguments, cwd=cwd, env=environment if env is None else env, **options)

    return start


@pytest.fixture
def start_babygpt(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Running]]:
    """The same without waiting; what still runs is killed in the end."""
    started: list[Running] = []

    def start(
        *arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None, **options: bool
    ) -> Running:
        started.append(Running(*arguments, cwd=cwd, env=env or environment, **options))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture(scope="session")
def tiny_run(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One run with everything on, W&B offline, as a user starts it; look, do not touch."""
    cwd = tmp_path_factory.mktemp("tiny-run")
    outcome = run(*TINY, cwd=cwd, env=environment, fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    return TinyRun(outcome, outcome.folder, list(TINY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a given size, such as `4m`; needs root."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            done = subprocess.run(options, capture_output=True, text=True, timeout=60)
        except OSError as error:
            pytest.skip(f"no small disk: {error}")
        if done.returncode:
            pytest.skip(f"no small disk: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], timeout=60, check=True)
