"""The whole configuration of a run, typed: what Hydra composes becomes a `Config` here.

YAML in conf/ holds values, the dataclasses hold types and rules; each stands beside the code
that uses it. `load` is the one way in, and refuses what is misspelt or does not fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from babygpt_exp.data.config import DATA, DataConfig
from babygpt_exp.errors import ConfigError, one_line
from babygpt_exp.hardware import HARDWARE, HardwareConfig, PrecisionConfig
from babygpt_exp.model import ARCHITECTURES, ArchConfig, ModelConfig
from babygpt_exp.optimizer import OPTIMIZERS, OptimizerConfig
from babygpt_exp.pruner import PRUNERS, PrunerConfig
from babygpt_exp.sampling import SamplingConfig
from babygpt_exp.schedule import SCHEDULES, ScheduleConfig
from babygpt_exp.tokenizer import TOKENIZERS, TokenizerConfig
from babygpt_exp.tracking.config import LOGGERS, LoggerConfig
from babygpt_exp.typed import build, nearest


@dataclass
class RunConfig:
    """Budget and intervals of a run, all in tokens, so that runs with other batches compare."""

    max_tokens: int
    """Tokens to train on; the last batch does not go over it."""
    batch_tokens: int
    """Tokens an optimizer step, over all devices; a multiple of `model.context`."""
    log_every_tokens: int | None
    """Interval of rows with the training loss; null is a thousandth of the run."""
    eval_every_tokens: int | None
    """Interval of evaluations on the validation split; null is an eighth of the run.
    The end of the run is always one, also of the next two intervals."""
    eval_tokens: int | None
    """Size of an evaluation: the first tokens of the validation text, the same each time. Null
    is all of it: tokens of two tokenizers hold other amounts of text, and only the same text
    compares them."""
    sample_every_tokens: int | None
    """Interval of generated samples; null is a quarter of the run."""
    checkpoint_every_tokens: int | None
    """Interval of checkpoints; null is an eighth of the run."""
    prompts: list[str]
    """Prompts to continue in every round of samples, of kind `manual`."""

    def __post_init__(self) -> None:
        problems = [
            f"run.{name}={value} must be at least 1"
            for name, value in vars(self).items()
            if isinstance(value, int) and value < 1
        ]
        if not problems and self.max_tokens < self.batch_tokens:
            problems.append(
                f"run.max_tokens={self.max_tokens} is below run.batch_tokens={self.batch_tokens}: "
                "not one step"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_tokens // self.batch_tokens

    def interval_steps(self, interval_tokens: int | None, parts: int) -> int:
        """An interval in optimizer steps, at least one; null is one of `parts` of the run."""
        if interval_tokens is None:
            return -(-self.num_steps // parts)
        return max(1, round(interval_tokens / self.batch_tokens))

    def is_due(self, step: int, interval_steps: int) -> bool:
        """Whether something comes after `step`: each interval, and at the end of the run."""
        return step % interval_steps == 0 or step == self.num_steps


@dataclass
class Config:
    """Everything that decides a run: config groups, `run`, `sampling`, and the keys beside them."""

    model: ModelConfig
    arch: ArchConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    precision: PrecisionConfig
    hardware: HardwareConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    logger: LoggerConfig
    pruner: PrunerConfig
    run: RunConfig
    sampling: SamplingConfig
    seed: int
    """Seed of weights, order of the data and samples."""
    init_from: str | None
    """A run's folder or a checkpoint whose weights it starts from; null starts anew."""
    plain: dict[str, Any]
    """The same as nested plain values, resolved: what is written to files."""

    def __post_init__(self) -> None:
        context, micro = self.model.context, self.hardware.micro_batch_tokens
        problems = []
        if self.run.batch_tokens % context:
            problems.append(
                f"run.batch_tokens={self.run.batch_tokens} is no multiple of "
                f"model.context={context}"
            )
        if micro is not None and (micro % context or self.run.batch_tokens % micro):
            problems.append(
                f"hardware.micro_batch_tokens={micro} must be a multiple of "
                f"model.context={context} and divide run.batch_tokens={self.run.batch_tokens}"
            )
        if self.sampling.prompt_tokens >= context:
            problems.append(
                f"sampling.prompt_tokens={self.sampling.prompt_tokens} must be below "
                f"model.context={context}"
            )
        if self.seed < 0 or self.seed >= 2**32:
            problems.append(f"seed={self.seed} must be between 0 and 2^32 - 1")
        if problems:
            raise ConfigError("; ".join(problems))


GROUPS: dict[str, type[Any] | dict[str, Any]] = {
    "model": ModelConfig,
    "arch": ARCHITECTURES,
    "data": DATA,
    "tokenizer": TOKENIZERS,
    "precision": PrecisionConfig,
    "hardware": HARDWARE,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "logger": LOGGERS,
    "pruner": PRUNERS,
    "run": RunConfig,
    "sampling": SamplingConfig,
}
"""The dataclass of each part of the config, or of each of its options by `name`."""


def load(composed: DictConfig) -> Config:
    """What Hydra composed, typed and checked.

    Raises ConfigError with every problem on one line: unknown keys (with the nearest right
    one), missing values, wrong types, values that do not fit together.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(missing(error)) from error
    assert isinstance(plain, dict)
    values: dict[str, Any] = {str(key): value for key, value in plain.items()}
    values.pop("resume", None)  # says where a run is, not what it is
    problems: list[str] = []
    known = {*GROUPS, "seed", "init_from"}
    for key in values.keys() - known:
        problems.append(f"unknown key '{key}'; {nearest(key, known)}")
    parts = {}
    for group in GROUPS:
        kind = dataclass_of(group, values.get(group), problems)
        if kind is not None:
            parts[group] = build(kind, values[group], f"{group}.", problems)
    if not isinstance(values.get("seed"), int) or isinstance(values["seed"], bool):
        problems.append(f"seed={values.get('seed')} must be a whole number")
    init_from = values.setdefault("init_from", None)
    if init_from == "":
        problems.append("init_from has no value; add init_from=RUN, a run's folder or a checkpoint")
    elif not isinstance(init_from, str | None):
        problems.append(f"init_from={init_from} must be a run's folder or a checkpoint")
    if problems:
        raise ConfigError("; ".join(problems))
    return Config(**parts, seed=values["seed"], init_from=init_from, plain=values)


def dataclass_of(group: str, values: Any, problems: list[str]) -> type[Any] | None:
    """The dataclass for a group's values, or None after adding to `problems`."""
    if not isinstance(values, dict):
        problems.append(f"{group} is missing; choose an option of conf/{group}")
        return None
    kind = GROUPS[group]
    if not isinstance(kind, dict):
        return kind
    name = values.get("name")
    if not isinstance(name, str) or name not in kind:
        problems.append(
            f"{group}.name={name} is set by choosing {group}=...; {nearest(str(name), kind)}"
        )
        return None
    chosen: type[Any] = kind[name]
    return chosen


def missing(error: OmegaConfBaseException) -> str:
    """One line for a value that is missing or does not resolve."""
    key = getattr(error, "full_key", None)
    if "Missing mandatory value" in str(error):
        return f"{key} has no value; add {key}=..."
    return f"{key}: {one_line(error)}"
