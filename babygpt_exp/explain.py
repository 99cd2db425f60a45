"""Hydra's and OmegaConf's errors in one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from babygpt_exp.config import GROUPS
from babygpt_exp.errors import UserError, one_line
from babygpt_exp.options import CONF, options
from babygpt_exp.typed import nearest


def known_keys() -> Iterator[str]:
    """Every key and group that a user can set."""
    yield from ("seed", "experiment", "ablation", "resume", "init_from")
    for group, kinds in GROUPS.items():
        yield group
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            for name in kind.__dataclass_fields__:
                if name != "name":
                    yield f"{group}.{name}"


def explain(error: Exception, arguments: list[str]) -> str:
    """One line for an error of Hydra's while it composed `arguments`."""
    text = str(error)
    if isinstance(error.__cause__, UserError):  # of a launcher or a sweeper
        return one_line(error.__cause__)
    found = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    if found and not found[1].startswith("hydra/"):
        group, option = found.groups()
        choices = options(group)
        return f"there is no {group}={option}; {nearest(option, choices)} ({', '.join(choices)})"
    found = re.search(r"Could not override '([^']+)'", text)
    if found and not found[1].startswith("hydra."):
        known, group = set(known_keys()), found[1].partition(".")[0]
        if found[1] in known:
            return (
                f"the chosen {group} has no key '{found[1]}'; in a sweep over {group} write "
                f"++{found[1]}=..."
            )
        return f"unknown key '{found[1]}'; {nearest(found[1], known)}"
    if "Config group override must be a string" in text:
        for argument in arguments:
            group, _, option = argument.partition("=")
            if option and (CONF / group).is_dir() and option not in options(group):
                return f"there is no {argument}; {group} has: {', '.join(options(group))}"
    cause = f": {one_line(error.__cause__)}" if error.__cause__ is not None else ""
    rest = r" See https://\S+ for details| Config search path: .*"
    return re.sub(rest, "", one_line(error)) + cause
