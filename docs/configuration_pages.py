"""The reference of the configuration, made of conf/ and of the dataclasses that read it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from itertools import zip_longest
from typing import Any

from docstrings import escaped
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from babygpt_exp.config import GROUPS as DATACLASSES
from babygpt_exp.config import Config
from babygpt_exp.options import CONF, options
from hydra_plugins.babygpt_launcher.launcher import ProcessLauncherConf
from hydra_plugins.babygpt_launcher.ray_launcher import RayLauncherConf
from hydra_plugins.babygpt_launcher.submitit_launcher import SubmititLauncherConf
from hydra_plugins.babygpt_sweeper.sweeper import OptunaSweeperConf

PLUGINS: dict[str, dict[str, type[Any]]] = {
    "hydra/launcher": {
        "process": ProcessLauncherConf,
        "ray": RayLauncherConf,
        "submitit_slurm": SubmititLauncherConf,
    },
    "hydra/sweeper": {"optuna": OptunaSweeperConf},
}
PRESETS = {
    "experiment": "Presets over all groups: `experiment=NAME` sets what its file says, and what is "
    "typed beside it still wins.",
    "ablation": "One part of a recipe changed, each an option of the sweep `experiment=ablation`.",
}
KEYS_BESIDE = ("seed", "init_from")
"""Keys of the config that are in no group and have a field in `Config`."""
OWN_WORDS = {
    "resume": "A run's folder: goes on with that run, in its folder; all else is in its config.",
}
GROUPS = (*DATACLASSES, *PRESETS, *PLUGINS)
"""All groups that have a page."""


def overview_page() -> str:
    """What there is, and the keys that belong to no group."""
    lines = ["# Configuration\n"]
    lines.append(
        "`group=option` chooses a file of `conf/`, `group.key=value` changes one value of it; "
        "`python -m babygpt_exp --cfg job` prints what comes of it. Values in `conf/` may refer to "
        "others, as in `${run.max_tokens}`. A misspelt key or option is refused with the nearest "
        "right one.\n"
    )
    lines += ["| group | options |", "|---|---|"]
    for group in GROUPS:
        names = ", ".join(f"`{name}`" for name in option_names(group)) or "keys only"
        lines.append(f"| [`{group}`](configuration-{group.replace('/', '-')}.md) | {names} |")
    lines.append("\n## Keys beside the groups\n")
    meanings = field_docstrings(Config)
    keys = {key: meanings[key] for key in KEYS_BESIDE} | OWN_WORDS
    rows = [(key, *described(Config, key), text) for key, text in keys.items()]
    lines += key_table("", rows)
    lines += ["\n## The defaults\n", "`conf/config.yaml`:\n", fenced(CONF / "config.yaml")]
    return "\n".join(lines)


def group_page(group: str) -> str:
    """One group: its keys, their values in each option, and the options' files."""
    lines = [f"# {group}\n"]
    if group in PRESETS:
        return "\n".join([*lines, PRESETS[group], "\n## Options\n", *option_files(group)])
    kinds = dataclasses_of(group)
    texts = [
        escaped(inspect.cleandoc(kind.__doc__ or "")) for kind in dict.fromkeys(kinds.values())
    ]
    if len(texts) > 1:
        texts = [f"- {textwrap.indent(text, '    ').strip()}" for text in texts]
    lines += [f"{text}\n" for text in texts]
    prefix = f"{group.replace('/', '.')}."
    rows = list(key_rows(kinds))
    if rows:
        lines += ["## Keys\n", *key_table(prefix, rows)]
    values = option_values(group)
    if rows and values:
        lines += ["\n## Values\n", *value_table(prefix, [row[0] for row in rows], values)]
    if group in DATACLASSES and options(group):
        lines += ["\n## Options\n", *option_files(group)]
    return "\n".join(lines)


def option_names(group: str) -> list[str]:
    """The options of a group."""
    return sorted(PLUGINS[group]) if group in PLUGINS else options(group)


def dataclasses_of(group: str) -> dict[str, type[Any]]:
    """The dataclass of each option; one under the group's name where all have the same."""
    kinds = PLUGINS.get(group) or DATACLASSES[group]
    return dict(kinds) if isinstance(kinds, Mapping) else {group: kinds}


Row = tuple[str, str, str, str]
"""Key, type, options that have it ("" for all), meaning."""


def key_rows(kinds: Mapping[str, type[Any]]) -> Iterator[Row]:
    """Every key of any of the dataclasses, once."""
    found: dict[str, list[str]] = {}
    for option, kind in kinds.items():
        for field in dataclasses.fields(kind):
            if field.name not in ("name", "_target_"):
                found.setdefault(field.name, []).append(option)
    for key, having in found.items():
        kind = kinds[having[0]]
        type_name, _ = described(kind, key)
        of = "" if len(having) == len(kinds) else ", ".join(f"`{name}`" for name in having)
        yield key, type_name, of, field_docstrings(kind).get(key, "")


def described(kind: type[Any], key: str) -> tuple[str, str]:
    """The type of a field as it is written, and no options."""
    for parent in kind.__mro__:
        annotation = vars(parent).get("__annotations__", {}).get(key)
        if annotation is not None:
            return (annotation if isinstance(annotation, str) else type_words(annotation)), ""
    return "str | None", ""


def type_words(annotation: Any) -> str:
    """The name of a type."""
    return annotation.__name__ if type(annotation) is type else str(annotation)


@cache
def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass and of those it inherits from."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as words)),
                ):
                    found[name] = " ".join(words.split())
    return found


def key_table(prefix: str, rows: list[Row]) -> list[str]:
    """A table of keys, each of which can be linked to."""
    with_options = any(of for _, _, of, _ in rows)
    lines = ["| key | meaning | type |" + " options |" * with_options]
    lines.append("|---|---|---|" + "---|" * with_options)
    for key, type_name, of, meaning in rows:
        cells = [f"`{prefix}{key}`{{#{prefix}{key}}}", escaped(meaning), f"`{type_name}`"]
        cells += [of or "all"] * with_options
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def value_table(prefix: str, keys: list[str], values: dict[str, dict[str, Any]]) -> list[str]:
    """What each option says of each key; empty where it has no such key."""
    lines = ["| key | " + " | ".join(f"`{option}`" for option in values) + " |"]
    lines.append("|---" * (1 + len(values)) + "|")
    for key in keys:
        cells = [f"`{shown(found[key])}`" if key in found else "" for found in values.values()]
        lines.append(f"| `{prefix}{key}` | {' | '.join(cells)} |")
    return lines


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value)
    return value.name if isinstance(value, Enum) else str(value)


def option_values(group: str) -> dict[str, dict[str, Any]]:
    """What a group is composed to by each option, references as they are written."""
    if group in PLUGINS:
        return {
            option: plain(OmegaConf.structured(kind)) for option, kind in PLUGINS[group].items()
        }
    if not options(group):  # `run` and `sampling` are parts of config.yaml
        return {"default": plain(composed()[0][group])}
    return {
        option: plain(config[group])
        for option, config in zip(options(group), composed(), strict=False)
    }


@cache
def composed() -> list[DictConfig]:
    """Configs in the n-th of which each group has its n-th option, or its default if it has none:
    groups do not depend on each other as long as nothing is resolved."""
    groups = [group for group in DATACLASSES if options(group)]
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        found = []
        for row in zip_longest(*map(options, groups)):
            chosen = [f"{group}={name}" for group, name in zip(groups, row, strict=True) if name]
            found.append(compose("config", overrides=chosen))
        return found


def plain(values: Any) -> dict[str, Any]:
    """Values as they are written, not resolved."""
    found: dict[str, Any] = OmegaConf.to_container(values, resolve=False)  # type: ignore[assignment]
    return found


def option_files(group: str) -> list[str]:
    """The files of a group, one tab each."""
    lines = []
    for name in options(group):
        lines.append(f'=== "{name}"\n')
        lines.append(textwrap.indent(fenced(CONF / group / f"{name}.yaml"), "    ") + "\n")
    return lines


def fenced(path: Any) -> str:
    """A YAML file as code."""
    return f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```"
