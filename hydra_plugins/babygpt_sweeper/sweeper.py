"""`hydra/sweeper=optuna`: a sweep in which earlier jobs decide what later ones try.

Overrides are those of Hydra's sweepers: `a,b,c`, `choice(a,b)`, `range(a,b,step)`, `interval(a,b)`,
`int(interval(a,b))`, `glob(*)`, and `tag(log,...)` around a range or an interval.

Hydra imports this file at every start, and twice: all but Hydra's part is in babygpt_exp.search.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SamplerName(Enum):
    """Who chooses."""

    tpe = "tpe"
    random = "random"


class DirectionName(Enum):
    """What is better."""

    minimize = "minimize"
    maximize = "maximize"


@dataclass
class OptunaSweeperConf:
    """Settings of the sweeper, by the names that Hydra's own for Optuna has for them."""

    _target_: str = "hydra_plugins.babygpt_sweeper.sweeper.OptunaSweeper"
    n_trials: int = 20
    """Jobs in all. A sweep of fewer goes on if it is called again with more."""
    n_jobs: int | None = None
    """Jobs that are chosen together and handed to the launcher; null is `n_jobs` of the launcher.
    The more there are, the less each of them can learn from."""
    sampler: SamplerName = SamplerName.tpe
    """`tpe` learns from the jobs so far, `random` does not."""
    n_startup_trials: int = 10
    """Jobs that `tpe` leaves to chance before it begins to learn."""
    seed: int = 1
    """Seed of the choices; that of the runs is the config's."""
    direction: DirectionName = DirectionName.minimize
    """Training returns bits a byte, of which few are good."""
    params: dict[str, str] = field(default_factory=dict)
    """Overrides as in `a.b: interval(1,2)`, for a search that is kept in a file."""


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="babygpt_sweeper"
)


class OptunaSweeper(Sweeper):
    """Searches for the best, by the launcher that is chosen."""

    def __init__(
        self,
        n_trials: int = 20,
        n_jobs: int | None = None,
        sampler: SamplerName = SamplerName.tpe,
        n_startup_trials: int = 10,
        seed: int = 1,
        direction: DirectionName = DirectionName.minimize,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.sampler, self.n_startup_trials, self.seed = sampler, n_startup_trials, seed
        self.direction, self.params = direction, params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's: what to run, and with what."""
        from hydra.core.plugins import Plugins

        self._check()
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def _check(self) -> None:
        """Refuse settings that can not be."""
        from babygpt_exp.errors import ConfigError

        if importlib.util.find_spec("optuna") is None:
            raise ConfigError(
                "hydra/sweeper=optuna needs Optuna: pip install 'babygpt-exp[optuna]'"
            )
        for name, least in (("n_trials", 1), ("n_jobs", 1), ("n_startup_trials", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"hydra.sweeper.{name}={value} must be at least {least}")

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs; returns what became of each, batch by batch."""
        from babygpt_exp.search.sampler import Sampler
        from babygpt_exp.search.search import Search
        from babygpt_exp.search.space import Space
        from babygpt_exp.search.trials import open_trials

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = Space(parser.parse_overrides(words))
        self.validate_batch_is_legal(space.examples())
        folder, direction = Path(str(self.config.hydra.sweep.dir)), self.direction.value
        search = Search(
            space,
            Sampler(self.sampler.value, self.seed, self.n_startup_trials, direction),
            open_trials(folder, direction, space.typed),
            self.n_trials,
            self._batch_size(self.config),
        )
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return search.run(self.launcher.launch)

    def _batch_size(self, config: DictConfig) -> int:
        """Jobs that are handed over together: as many as the launcher runs at a time."""
        size = self.n_jobs or OmegaConf.select(config, "hydra.launcher.n_jobs")
        return size if isinstance(size, int) and size >= 1 else 1
