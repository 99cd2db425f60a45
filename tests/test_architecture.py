"""How files look: their length, that of their functions, their letters and their first words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from experiment_harness import REPOSITORY

PACKAGES = ("babygpt_exp", "hydra_plugins", "streamer")
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
)
PYTHON = sorted(
    [*SOURCES, *(p.relative_to(REPOSITORY) for p in (REPOSITORY / "tests").rglob("*.py"))]
)
TEXTS = sorted(
    [*PYTHON, *(p.relative_to(REPOSITORY) for p in (REPOSITORY / "conf").rglob("*.yaml"))]
)

MOST_LINES = 300
"""Of a file."""
MOST_FUNCTION_LINES = 45
"""Of a function, with its signature and its docstring."""
LONG_FILES = {
    "tests/test_model.py": "one suite, and every architecture that it is held against",
    "tests/test_resume.py": "all of it looks at one run that was not disturbed",
}
"""Files that are longer, and why."""
LONG_FUNCTIONS = {
    "babygpt_exp/evaluation/cli.py build_parser": "a table of options",
    "streamer/cli.py build_parser": "a table of options",
    "streamer/prometheus.py prometheus": "a table of metrics",
    "tests/test_launcher_submitit.py test_batch_script": "a whole script",
}
"""Functions that are longer, and why; a table reads best in one piece."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Names and lengths of a file's functions."""
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_are_short() -> None:
    long = {str(p) for p in PYTHON if (REPOSITORY / p).read_text().count("\n") > MOST_LINES}
    assert long == LONG_FILES.keys()


def test_functions_are_short() -> None:
    long = {
        f"{path} {name}"
        for path in PYTHON
        for name, lines in functions(path)
        if lines > MOST_FUNCTION_LINES
    }
    assert long == LONG_FUNCTIONS.keys()


def test_texts_are_ascii_and_end_with_their_line() -> None:
    texts = {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in TEXTS}
    assert not [path for path, text in texts.items() if not text.isascii()]
    assert not [path for path, text in texts.items() if text and not text.endswith("\n")]


def test_every_module_says_what_it_is() -> None:
    modules = [path for path in PYTHON if path.stem != "__init__"]
    assert not [p for p in modules if not re.match(r'r?"""', (REPOSITORY / p).read_text())]


def test_no_module_is_called_utils() -> None:
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
