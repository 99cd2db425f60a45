"""`resume=RUN_DIR`: going on with a run in its own folder, from its newest whole checkpoint.

The saved config is composed like a preset, so that overrides work on top of it as on any other.
What is slow to import is imported where it is needed: the command line comes by here first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from babygpt_exp.errors import ConfigError
from babygpt_exp.folder import RunFolder
from babygpt_exp.saved import SavedRun, plain_config

if TYPE_CHECKING:
    from babygpt_exp.config import Config

MAY_CHANGE = (
    "hardware.",
    "logger.",
    "pruner.",
    "sampling.",
    "run.max_tokens",
    "run.log_every_tokens",
    "run.eval_every_tokens",
    "run.sample_every_tokens",
    "run.checkpoint_every_tokens",
    "run.prompts",
    "data.source",
    "data.sources",
    "data.url",
    "data.token_file",
    "data.ca_file",
    "tokenizer.path",
)
"""All that a run may change when it goes on: keys, and groups with a dot. Everything else decides
the curve: sizes, architecture, tokenizer, data and their order, seed, precision, optimizer,
schedule, batch, evaluation. Text and tokenizer may have moved: the streamer compares the text's
fingerprint, `check_tokenizer` the tokenizer's content."""

PRESET = "saved"
"""Option of every group under which the saved config is composed."""


def with_saved_config(arguments: list[str]) -> list[str]:
    """Arguments for Hydra: `resume=RUN_DIR` also chooses the run's saved config as a preset."""
    typed = [number for number, word in enumerate(arguments) if word.startswith("resume=")]
    if not typed:
        return arguments
    override: Any = OverridesParser.create().parse_override(arguments[typed[0]])
    value: Any = override.value()
    if value is None:
        return arguments
    if len(typed) > 1 or override.is_sweep_override() or {"-m", "--multirun"} & {*arguments}:
        raise ConfigError(
            "resume=RUN_DIR goes on with one run; a job of a sweep has its own folder"
        )
    if any(word.startswith("experiment=") for word in arguments):
        raise ConfigError(
            "experiment=... starts a new run; resume=RUN_DIR has the run's own config"
        )
    offer_saved_config(Path(str(value)))
    return [*arguments[: typed[0] + 1], f"experiment={PRESET}", *arguments[typed[0] + 1 :]]


def offer_saved_config(path: Path) -> None:
    """Make a run's config an option that Hydra can compose, and its folder the one to run in."""
    if not path.is_dir():
        raise ConfigError(f"resume={path}: there is no such folder")
    config_file = RunFolder(path).config
    if not config_file.is_file():
        raise ConfigError(f"resume={path}: no run with a config.yaml is in this folder")
    saved = plain_config(config_file)
    values: dict[str, Any] = {
        key: saved.pop(key) for key in ("run", "sampling", "seed", "init_from") if key in saved
    }
    store = ConfigStore.instance()
    for group, node in saved.items():
        store.store(group=group, name=PRESET, node=node)
    preset: dict[str, Any] = {
        "defaults": [{f"override /{group}": PRESET} for group in saved],
        "hydra": {"run": {"dir": str(path.resolve())}},
        **values,
    }
    store.store(group="experiment", name=PRESET, package="_global_", node=preset)


def check(saved: SavedRun, config: Config) -> list[str]:
    """What a person should know of what is changed, a line each.

    Raises ConfigError, with every field named, for what may not change.
    """
    old, new = dict(flat(saved.config)), dict(flat(config.plain))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    refused = [
        key
        for key in changed
        if key not in MAY_CHANGE and f"{key.partition('.')[0]}." not in MAY_CHANGE
    ]
    others = {key.partition(".")[0] for key in refused if key.endswith(".name")}
    refused = [
        key for key in refused if key.endswith(".name") or key.partition(".")[0] not in others
    ]
    if refused:
        words = (f"{key}={new.get(key)} (the run has {old.get(key)})" for key in refused)
        raise ConfigError(f"a run can not change when it goes on: {', '.join(words)}")
    check_tokenizer(saved, config)
    if saved.checkpoint is not None and config.data.name == "eir":
        raise ConfigError(
            "data=eir can not go on: its protocol has no positions; serve the corpus with "
            "python -m streamer for exact resume"
        )
    lines = [f"changed: {key}={new.get(key)}, was {old.get(key)}" for key in changed]
    if saved.step and old["run.max_tokens"] != new["run.max_tokens"]:
        lines.append(schedule_words(saved, config))
    if any(key.startswith("hardware.") for key in changed):
        lines.append("note: on other hardware the curve goes on, but not bit for bit")
    return lines


def check_tokenizer(saved: SavedRun, config: Config) -> None:
    """Refuse a tokenizer that is not the checkpoint's."""
    from babygpt_exp.tokenizer import FileConfig, read_tokenizer

    if saved.tokenizer is None:
        return
    own = saved.folder.tokenizer
    if own.exists() and own.read_text(encoding="utf-8") != saved.tokenizer.json:
        raise ConfigError(f"{own} is not the tokenizer of {saved.checkpoint}")
    if isinstance(config.tokenizer, FileConfig):
        path = Path(config.tokenizer.path)
        if not path.is_file() and str(path) == saved.config["tokenizer"].get("path"):
            return  # it has moved, and is not needed any more
        if read_tokenizer(path, config.tokenizer.end_of_text).json != saved.tokenizer.json:
            raise ConfigError(f"tokenizer.path={path} is not the tokenizer of the run; take {own}")


def schedule_words(saved: SavedRun, config: Config) -> str:
    """How another budget changes the learning rate."""
    from babygpt_exp.schedule import multiplier

    before = saved.config["run"]["max_tokens"] // saved.config["run"]["batch_tokens"]
    old, new = (
        multiplier(config.schedule, min(1.0, (saved.step + 0.5) / steps))
        for steps in (before, config.run.num_steps)
    )
    return (
        f"note: the schedule now spans {config.run.max_tokens:,} tokens: the learning rate goes "
        f"on at {new:.0%} of its peak, not at {old:.0%}"
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
