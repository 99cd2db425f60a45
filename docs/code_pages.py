"""The reference of the code: a page for each package, and one for each command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SECONDS = 120
"""How long a command may take to print its help."""
MODULES_OF_SCRIPTS = {"babygpt": "babygpt_exp", "babygpt-stream": "streamer"}
"""Commands whose module is not named as they are."""
INTERNAL = ("__main__", "__init__")


@cache
def packages() -> tuple[str, ...]:
    """The packages, by their dotted names."""
    return tuple(
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for root in ("babygpt_exp", "streamer", "hydra_plugins")
        for path in sorted((REPOSITORY / root).rglob("__init__.py"))
    )


def module_page(package: str) -> str:
    """The modules of one package, without those of the packages inside it."""
    folder = REPOSITORY / package.replace(".", "/")
    lines = [
        f"# {package}\n",
        f"::: {package}\n    options:\n      members: false\n      show_root_heading: false\n",
    ]
    if not (folder / "__init__.py").read_text(encoding="utf-8").strip():
        del lines[1:]
    for path in sorted(folder.glob("*.py")):
        if path.stem not in INTERNAL:
            lines.append(f"::: {package}.{path.stem}\n")
    return "\n".join(lines)


@cache
def commands() -> dict[str, str]:
    """The commands as they are typed, and the name of the script that does the same."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    found = {}
    for script in scripts:
        module = MODULES_OF_SCRIPTS.get(script, f"babygpt_exp.{script.removeprefix('babygpt-')}")
        found[f"python -m {module}"] = script
    return found | {"python -m streamer.bench": ""}


def command_page(command: str) -> str:
    """What a command says of itself."""
    script = commands()[command]
    same = f"The same as `{script}`, where the package is installed.\n" if script else ""
    return f"# {command}\n\n{same}\n```text\n{help_text(command)}\n```\n"


def help_text(command: str) -> str:
    """What `COMMAND --help` prints on a terminal of 100 columns."""
    _, *arguments = command.split()
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *arguments, "--help"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=True,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).strip()
