"""`hydra/sweeper=optuna` as Hydra starts it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_harness import REPOSITORY, SECONDS, Outcome
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig
from optuna_harness import Folder, parabola

from babygpt_exp.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A new one."""
    return Folder(tmp_path)


class TestPlugin:
    """What Hydra sees."""

    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Callable[..., list[int]]:
        """Runs a sweep by Hydra; the sizes of its batches."""
        conf = tmp_path / "conf"
        (conf / "kind").mkdir(parents=True)
        (conf / "config.yaml").write_text("defaults: [_self_, kind: a]\nx: 1.0\n")
        for kind in "ab":
            (conf / "kind" / f"{kind}.yaml").write_text(f"name: {kind}")
        (conf / "searched").mkdir()
        (conf / "searched" / "x.yaml").write_text(
            "# @package _global_\nhydra: {sweeper: {params: {x: 'range(1,4)', kind: 'a,b'}}}\n"
        )

        def task(config: DictConfig) -> float:
            return parabola({"x": config.x, "kind": config.kind.name})

        def start(*overrides: str) -> list[int]:
            GlobalHydra.instance().clear()
            try:
                batches = Hydra.create_main_hydra2(
                    "numbers", create_config_search_path(str(conf))
                ).multirun(
                    config_name="config",
                    task_function=task,
                    overrides=[
                        "hydra/sweeper=optuna",
                        f"hydra.sweep.dir={tmp_path / 'sweep'}",
                        "hydra.job.chdir=false",
                        *overrides,
                    ],
                    with_log_configuration=False,
                )
            finally:
                GlobalHydra.instance().clear()
            return [len(batch) for batch in batches]

        return start

    def test_hydra_finds_it(self) -> None:
        names = [plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)]
        assert "OptunaSweeper" in names

    def test_runs_jobs_by_a_launcher(
        self, sweep: Callable[..., list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = ("hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
        assert sweep("x=interval(-10,10)", "kind=glob(*)", *settings) == [2, 2, 1]
        folder = Folder(tmp_path / "sweep")
        assert [trial.state for trial in folder.trials] == ["complete"] * 5
        assert {path.name for path in folder.path.iterdir()} >= {"0", "4", "multirun.yaml"}
        with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
            best = compose("config", shlex.split(capsys.readouterr().out.splitlines()[-1]))
        assert {"x": best.x, "kind": best.kind.name} == folder.content["best_params"]

    def test_batches_are_by_default_what_the_launcher_runs_at_a_time(
        self, sweep: Callable[..., list[int]]
    ) -> None:
        launcher = ("hydra/launcher=process", "hydra.launcher.n_jobs=2")
        assert sweep("x=range(9)", "hydra.sweeper.n_trials=3", *launcher) == [2, 1]

    def test_space_can_come_from_the_config(
        self, sweep: Callable[..., list[int]], tmp_path: Path
    ) -> None:
        assert sweep("+searched=x", "kind=b", "hydra.sweeper.n_trials=1") == [1]
        assert Folder(tmp_path / "sweep").trials[0].params.keys() == {"x"}

    def test_refuses_an_option_that_is_not_there_before_any_job(
        self, sweep: Callable[..., list[int]], tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigCompositionException, match="Could not find 'kind/d'"):
            sweep("kind=a,b,d")
        assert not (tmp_path / "sweep").exists()

    @pytest.mark.parametrize(
        ("typed", "error"),
        [
            ("n_trials=0", "hydra.sweeper.n_trials=0 must be at least 1"),
            ("n_jobs=0", "hydra.sweeper.n_jobs=0 must be at least 1"),
        ],
    )
    def test_refuses_settings(
        self, sweep: Callable[..., list[int]], typed: str, error: str
    ) -> None:
        with pytest.raises(ConfigError, match=error):
            sweep("x=1,2", f"hydra.sweeper.{typed}")

    def test_refuses_a_sampler_that_it_does_not_have(self, sweep: Callable[..., list[int]]) -> None:
        with pytest.raises(HydraException, match="sampler") as raised:
            sweep("x=1,2", "hydra.sweeper.sampler=grid")
        assert "one of [tpe, random]" in str(raised.value.__cause__)

    def test_says_how_to_install_optuna(
        self, sweep: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ConfigError, match=r"pip install 'babygpt-exp\[optuna\]'$"):
            sweep("x=1,2")

    def test_start_does_not_import_optuna(self) -> None:
        code = (
            "import sys, babygpt_exp.cli\n"
            "from hydra.core.plugins import Plugins\n"
            "Plugins.instance()\n"
            "assert 'hydra_plugins.babygpt_sweeper.sweeper' in sys.modules\n"
            "assert not {'optuna', 'torch', 'lightning', 'numpy'} & sys.modules.keys()\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=SECONDS)

    def test_command_needs_something_to_search(self, babygpt: Callable[..., Outcome]) -> None:
        outcome = babygpt("-m", "hydra/sweeper=optuna", "seed=1")
        assert outcome.exit_code == 2
        assert "nothing to search" in outcome.one_error_line()
        assert list(outcome.cwd.iterdir()) == []
