"""The config of a run at a glance: a line a group, and what somebody has changed marked.

`*` marks what was typed, `+` what came with a preset (`experiment=`, `ablation=`); colours say the
same again on a terminal. Everything else is as conf/ has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.text import Text
from rich.tree import Tree

from babygpt_exp.options import CONF, options

TYPED, PRESET = "*", "+"
"""Marks of what was typed, and of what a preset has set."""

PRESETS = ("experiment", "ablation")
"""Groups whose options set values of others; the later one wins."""

VALUE_CHARACTERS = 48
"""Longest value shown whole."""

LEGEND = f"{TYPED} typed, {PRESET} from a preset"
"""What the marks mean."""

NAME = "name"
"""Kind of a word that names a group, in a row."""

STYLES = {TYPED: "bold yellow", PRESET: "bold cyan", NAME: "", "": "dim"}
"""How rich shows each kind of word."""

PIPE_COLUMNS = 100
"""Width of the lines in a pipe."""

NAME_COLUMNS = 11
"""Width of the groups' names."""

MARGIN = 2
"""Left of those."""

INDENT = NAME_COLUMNS + 2
"""Where a line goes on that was folded."""

GUIDE_COLUMNS = 4
"""Width of what rich draws before a branch."""

EMPTY = ("null", "[]")
"""Values that say nothing, unless somebody has chosen them."""

MORE = " ..."
"""Says that there are more values than fit."""

Row = list[tuple[str, str]]
"""A line: words with their kinds, a mark, NAME, or nothing for what is as in conf/."""


@dataclass(frozen=True)
class Entry:
    """A key and its value."""

    key: str
    """Without its group."""
    value: str
    """As YAML has it, cut where it is long."""
    mark: str = ""
    """Who has changed it: TYPED, PRESET or nobody."""

    def __str__(self) -> str:
        return f"{self.mark}{self.key}={self.value}"


@dataclass(frozen=True)
class Branch:
    """A group of the config, or a key that stands beside the groups."""

    name: str
    """Of the group."""
    option: str
    """The option that was chosen; empty where there is none to choose, or it is not known."""
    mark: str
    """Who has chosen it."""
    entries: tuple[Entry, ...]
    """Its values, changed ones first."""

    @property
    def changed(self) -> tuple[Entry, ...]:
        """What is not as conf/ has it."""
        return tuple(entry for entry in self.entries if entry.mark)


@dataclass(frozen=True)
class Changes:
    """What overrides change: values by their keys, and options by their groups."""

    values: dict[str, str]
    """Mark of each key."""
    choices: dict[str, tuple[str, str]]
    """Option and mark of each group."""


def branches(config: Mapping[str, Any], overrides: Sequence[str]) -> list[Branch]:
    """The lines of a config, resolved and plain, that was composed with these overrides.

    Values that stand alone (`seed`, `init_from`) come last, together.
    """
    changes = find_changes(overrides)
    found, alone = [], []
    for group, values in config.items():
        if isinstance(values, Mapping):
            option, mark = chosen(group, values, changes)
            keys = {key: value for key, value in values.items() if key != "name"}
            found.append(Branch(group, option, mark, entries(f"{group}.", keys, changes)))
        elif values is not None:
            alone.append((group, values))
    order = [path.name for path in CONF.iterdir() if path.is_dir()]
    found.sort(key=lambda branch: branch.name not in order)  # groups first; stable
    presets = [
        Branch(name, *changes.choices[name], ()) for name in PRESETS if name in changes.choices
    ]
    return [*presets, *found, Branch("", "", "", entries("", dict(alone), changes))]


def entries(prefix: str, values: Mapping[str, Any], changes: Changes) -> tuple[Entry, ...]:
    """The values of a group, those that were changed first."""
    made = [
        Entry(key, shown(value), mark_of(f"{prefix}{key}", changes))
        for key, value in values.items()
    ]
    return tuple(sorted(made, key=lambda entry: not entry.mark))


def mark_of(key: str, changes: Changes) -> str:
    """Who has changed a key, or something below it."""
    marks = [
        mark for name, mark in changes.values.items() if name == key or name.startswith(f"{key}.")
    ]
    return TYPED if TYPED in marks else PRESET if marks else ""


def chosen(group: str, values: Mapping[str, Any], changes: Changes) -> tuple[str, str]:
    """The option of a group, and who has chosen it.

    Its values know their option by `name`. Those of `model` have none: then it is what was chosen,
    or the only option with these values.
    """
    option, mark = changes.choices.get(group, ("", ""))
    name = str(values.get("name", option))
    if name:
        return name, mark if name == option else ""
    alike = [
        option
        for option in options(group)
        if all(
            values.get(str(key)) == value or f"{group}.{key!s}" in changes.values
            for key, value in OmegaConf.load(CONF / group / f"{option}.yaml").items()
        )
    ]
    return (alike[0] if len(alike) == 1 else ""), ""


def find_changes(overrides: Sequence[str]) -> Changes:
    """What these overrides change, and the presets that they choose."""
    typed = Changes({}, {})
    parsed: list[Any] = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if override.is_delete() or key.startswith("hydra"):
            continue
        if (CONF / key).is_dir():
            typed.choices[key] = str(value), TYPED
        else:
            typed.values[key] = TYPED
    found = Changes({}, {})
    for preset in PRESETS:
        if preset in typed.choices:
            add_preset(preset, typed.choices[preset][0], found)
    return Changes(found.values | typed.values, found.choices | typed.choices)


def add_preset(group: str, option: str, found: Changes) -> None:
    """Add what an option of PRESETS changes; nothing for one that is not in conf/."""
    path = CONF / group / f"{option}.yaml"
    if not path.is_file():
        return
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    for default in content.pop("defaults", []):
        for name, value in default.items() if isinstance(default, dict) else ():
            found.choices[name.removeprefix("override /")] = str(value), PRESET
    content.pop("hydra", None)
    for key in leaves("", content):
        found.values[key] = PRESET


def leaves(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """The keys of nested values, with dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}"


def shown(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, int | float) and abs(value) >= 100_000:
        text = f"{value:_.0f}"
    else:
        text = str(value)
    text = " ".join(text.split())
    if len(text) <= VALUE_CHARACTERS:
        return text
    half = (VALUE_CHARACTERS - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def plain_lines(tree: Sequence[Branch], columns: int = PIPE_COLUMNS) -> list[str]:
    """The tree for a pipe: groups with something changed, then the other groups' options."""
    lines = [f"config ({LEGEND})"]
    for branch in tree:
        if branch.mark or branch.changed:
            lines += [plain(row) for row in rows(branch, columns - MARGIN)]
    rest = [Entry(b.name, b.option) for b in tree if b.option and not (b.mark or b.changed)]
    if rest:
        same = Branch("as in conf/", "", "", tuple(rest))
        lines += [plain(row) for row in folded(same, rest, columns - MARGIN)]
    return lines


def plain(row: Row) -> str:
    """A line without its kinds, with a margin."""
    return " " * MARGIN + "".join(text for text, _ in row)


def rich_tree(tree: Sequence[Branch], columns: int) -> Tree:
    """The tree for a terminal: every group, what was changed in colours, all else dim and cut."""
    found = Tree(Text.assemble(("config", "bold"), (f"  {LEGEND}", "dim")), guide_style="dim")
    for branch in tree:
        lines = rows(branch, columns - GUIDE_COLUMNS, with_defaults=True)
        styled = [Text.assemble(*((text, STYLES[kind]) for text, kind in row)) for row in lines]
        found.add(Text("\n").join(styled))
    return found


def rows(branch: Branch, columns: int, *, with_defaults: bool = False) -> list[Row]:
    """A branch in lines: all that was changed, and of the rest what still fits on the last."""
    lines = folded(branch, branch.changed, columns)
    if with_defaults:
        rest = [e for e in branch.entries if not e.mark and e.value not in EMPTY]
        room = columns - sum(len(text) for text, _ in lines[-1])
        for number, entry in enumerate(rest, start=1):
            room -= 1 + len(str(entry))
            if room < (0 if number == len(rest) else len(MORE)):
                lines[-1].append((MORE, ""))
                break
            lines[-1].append((f" {entry}", ""))
    return lines


def folded(branch: Branch, shown_entries: Sequence[Entry], columns: int) -> list[Row]:
    """A branch's name, its option and some entries, on as many lines as they need."""
    head = f"{branch.mark or ' '} {branch.name:<{NAME_COLUMNS}}"
    lines: list[Row] = [[(head, branch.mark or NAME)]]
    if branch.option:
        lines[-1].append((f" {branch.option}", branch.mark or NAME))
    for entry in shown_entries:
        word = f" {entry}"
        used = sum(len(text) for text, _ in lines[-1])
        if used + len(word) > columns and used > INDENT:
            lines.append([(" " * INDENT, "")])
        lines[-1].append((word, entry.mark))
    return lines
