"""What imports what: the contracts of pyproject.toml, no cycles, nothing slow before its time."""

from __future__ import annotations

import graphlib
import json
import subprocess
import sys

import grimp
import pytest
from experiment_harness import REPOSITORY, SECONDS
from importlinter.cli import lint_imports

PACKAGES = ("babygpt_exp", "hydra_plugins", "streamer")
SLOW = {"torch", "lightning", "wandb", "pandas", "aiohttp", "hydra", "plotly", "pyarrow"}
"""What takes a second or so to import."""


def imported_by(code: str) -> set[str]:
    """Names of all modules that a process has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules(package: str) -> list[str]:
    """Names of a package's modules, but for the ones that run when imported."""
    paths = (path.relative_to(REPOSITORY) for path in (REPOSITORY / package).rglob("*.py"))
    return [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(paths)
        if path.stem != "__main__"
    ]


def test_contracts_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """`lint-imports` shows the imports that break one."""
    config = str(REPOSITORY / "pyproject.toml")
    assert lint_imports(config_filename=config, no_cache=True) == 0, capsys.readouterr().out
    assert "6 kept, 0 broken" in capsys.readouterr().out


def test_no_module_imports_itself_by_a_detour() -> None:
    """Nor by imports in functions, nor by those for types only: so any can be imported first."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, with the modules of it


def test_streamer_knows_nothing_of_models() -> None:
    """Not even by way of the libraries that it imports."""
    names = modules("streamer")
    found = imported_by(f"import {', '.join(names)}")
    assert set(names) <= found
    assert not found & {"torch", "lightning", "babygpt_exp", "wandb", "hydra", "pandas"}


@pytest.mark.parametrize("package", ["babygpt_exp", "streamer"])
def test_importing_a_package_imports_nothing_else(package: str) -> None:
    found = imported_by(f"import {package}")
    assert package in found
    assert not found & SLOW
    assert not {name for name in found if name.startswith(f"{package}.")}


def test_command_line_imports_late_what_is_slow() -> None:
    found = imported_by("import babygpt_exp.cli")
    assert "babygpt_exp.cli" in found
    assert not found & ((SLOW - {"hydra"}) | {"streamer"})
