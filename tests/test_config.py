"""What Hydra composes: every option loads typed, and a run's config is whole."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import yaml
from experiment_harness import TINY, TinyRun
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from babygpt_exp.config import GROUPS, Config, RunConfig, load
from babygpt_exp.errors import ConfigError
from babygpt_exp.explain import known_keys
from babygpt_exp.options import CONF
from babygpt_exp.tokenizer import train_bpe

OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("ablation", "experiment", "hydra")
)
PRESETS = sorted(
    f"{path.parent.name}={path.stem}"
    for group in ("ablation", "experiment")
    for path in (CONF / group).glob("*.yaml")
)
MISSING = {
    "experiment=ablation": ["data.source=a.txt"],
    "experiment=finetune": ["data.source=a.parquet", "init_from=run"],
}
"""What a preset needs that has no default."""


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@cache
def loaded(*overrides: str) -> Config:
    return load(composed(*overrides))


def loaded_plain(preset: str) -> dict[str, Any]:
    return loaded(preset, *MISSING.get(preset, [])).plain


@pytest.fixture(scope="module")
def missing_values(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """What an option needs that has no default."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_bpe(257, []).json)
    return {
        ("data", "local"): ["data.source=corpus.txt"],
        ("data", "instructions"): ["data.source=a.parquet"],
        ("data", "remote"): ["data.url=ws://127.0.0.1:1/ws"],
        ("data", "mix"): ["data.sources=[a.txt,b/]"],
        ("data", "eir"): ["data.url=ws://127.0.0.1:1/ws"],
        ("tokenizer", "file"): [f"tokenizer.path={path}"],
    }


class TestOptions:
    """Every file of conf/."""

    @pytest.mark.parametrize(("group", "option"), OPTIONS)
    def test_option_loads(
        self, group: str, option: str, missing_values: dict[tuple[str, str], list[str]]
    ) -> None:
        config = loaded(f"{group}={option}", *missing_values.get((group, option), []))
        kind = GROUPS[group]
        part = getattr(config, group)
        assert type(part) is (kind[option] if isinstance(kind, dict) else kind)
        written = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
        for key, value in written.items():
            if key != "defaults" and "${" not in str(value) and value != "???":
                assert config.plain[group][key] == value
        if group != "model":
            assert part.name == option

    @pytest.mark.parametrize(("group", "option"), OPTIONS)
    def test_values_are_plain_and_typed(
        self, group: str, option: str, missing_values: dict[tuple[str, str], list[str]]
    ) -> None:
        config = loaded(f"{group}={option}", *missing_values.get((group, option), []))
        for field in dataclasses.fields(getattr(config, group)):
            value = getattr(getattr(config, group), field.name)
            assert type(value) in (int, float, bool, str, list, tuple, type(None)), field.name
            if field.type == "float":
                assert type(value) is float, field.name

    @pytest.mark.parametrize("preset", PRESETS)
    def test_preset_loads(self, preset: str) -> None:
        assert loaded_plain(preset)

    def test_every_ablation_changes_something(self) -> None:
        default = loaded().plain
        changed = {preset for preset in PRESETS if loaded_plain(preset) != default}
        assert {preset for preset in PRESETS if "ablation=" in preset} - changed == {
            "ablation=base"
        }

    def test_an_override_wins_over_an_experiment(self) -> None:
        assert loaded("experiment=smoke", "run.eval_tokens=4096").run.eval_tokens == 4096
        assert loaded("experiment=smoke", "model=baby").model.width == 512

    def test_every_group_has_a_folder(self) -> None:
        folders = {group for group, _ in OPTIONS}
        assert folders == set(GROUPS) - {"run", "sampling"}

    def test_every_named_dataclass_has_a_file(self) -> None:
        for group, kinds in GROUPS.items():
            if isinstance(kinds, dict):
                assert {option for g, option in OPTIONS if g == group} == set(kinds)

    def test_defaults(self) -> None:
        config = loaded()
        names = {g: config.plain[g].get("name") for g in GROUPS if g not in ("run", "sampling")}
        assert names == {
            "model": None,
            "arch": "modern",
            "data": "sample",
            "tokenizer": "bpe",
            "precision": "bf16-mixed",
            "hardware": "auto",
            "optimizer": "muon",
            "schedule": "wsd",
            "logger": "wandb",
            "pruner": "none",
        }
        assert (config.model.num_layers, config.model.width) == (4, 512)
        assert (config.model.num_heads, config.model.context) == (8, 512)
        assert config.run.prompts == ["This movie is the most", "Steven"]
        assert config.tokenizer.vocab_size == 8192  # type: ignore[attr-defined]

    def test_budget_follows_the_model(self) -> None:
        small = loaded("model=small")
        assert small.run.max_tokens == small.model.budget_tokens
        assert small.run.batch_tokens == small.model.batch_tokens

    def test_seed_of_the_data_follows_the_seed(self) -> None:
        assert loaded("seed=7").data.seed == 7
        assert loaded("seed=7", "data.seed=3").data.seed == 3

    @pytest.mark.parametrize("mode", ["offline", "disabled"])
    def test_wandb_mode_of_the_environment(
        self, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", mode)
        assert load(composed()).logger.mode == mode  # type: ignore[attr-defined]

    def test_numbers_may_be_written_in_other_ways(self) -> None:
        assert loaded("run.max_tokens=1e6").run.max_tokens == 1_000_000
        assert type(loaded("run.max_tokens=1e6").run.max_tokens) is int
        assert type(loaded("sampling.temperature=1").sampling.temperature) is float

    def test_config_of_a_run_loads_to_an_equal_one(self, tiny_run: TinyRun) -> None:
        again = load(OmegaConf.load(tiny_run.folder / "config.yaml"))  # type: ignore[arg-type]
        assert again == loaded(*TINY)

    def test_all_keys_have_values(self) -> None:
        config = loaded("hardware=ddp")  # has what the others have, and more
        for key in known_keys():
            group, _, name = key.partition(".")
            if group in ("model", "run", "sampling", "precision", "hardware") and name:
                assert name in config.plain[group]


@pytest.fixture
def run_config() -> RunConfig:
    return RunConfig(
        max_tokens=10_000,
        batch_tokens=100,
        log_every_tokens=None,
        eval_every_tokens=None,
        eval_tokens=100,
        sample_every_tokens=None,
        checkpoint_every_tokens=None,
        prompts=[],
    )


@pytest.mark.parametrize(
    ("tokens", "parts", "steps"),
    [(None, 10, 10), (None, 4, 25), (None, 1000, 1), (1000, 8, 10), (1, 8, 1), (149, 8, 1)],
)
def test_intervals_in_steps(
    run_config: RunConfig, tokens: int | None, parts: int, steps: int
) -> None:
    assert run_config.num_steps == 100
    assert run_config.interval_steps(tokens, parts) == steps


def test_config_errors_are_for_users() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("model.num_heads=5")
    assert caught.value.exit_code == 2
