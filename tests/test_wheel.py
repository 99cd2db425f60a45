"""A built wheel, installed elsewhere, finds its config and its corpus."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from experiment_harness import QUIET, REPOSITORY, SECONDS, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as pip lays it out."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place)]
    done = subprocess.run(
        [*build, str(REPOSITORY)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_wheel_has_config_corpus_and_licences(installed: Path) -> None:
    config = sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("conf/**/*.yaml"))
    shipped = (path.relative_to(installed) for path in installed.glob("babygpt_exp/conf/**/*.yaml"))
    assert sorted(path.relative_to("babygpt_exp") for path in shipped) == config
    assert (installed / "babygpt_exp/corpus/sample.parquet").is_file()
    assert (installed / "babygpt_exp/corpus/LICENSE").is_file()
    assert (installed / "babygpt_exp/report/template/page.html.j2").is_file()
    assert (installed / "babygpt_exp/serving/page.html").is_file()
    assert (installed / "hydra_plugins/babygpt_launcher/launcher.py").is_file()
    assert not (installed / "tests").exists()


def test_wheel_trains_from_another_folder(
    installed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    env = environment | {"PYTHONPATH": str(installed)}
    where = "import babygpt_exp, streamer; print(babygpt_exp.__file__, streamer.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True
    ).stdout.split()
    assert all(Path(path).is_relative_to(installed) for path in found), found
    outcome = run(*QUIET, "run.max_tokens=2048", cwd=tmp_path, env=env, fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    assert outcome.summary["status"] == "completed"


@pytest.mark.parametrize("name", ["babygpt-generate", "babygpt-serve"])
def test_commands_of_the_wheel_help(
    name: str, installed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """What their entry points name is there, and says how it is used."""
    text = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    module, _, function = text.partition(f"{name} = ")[2].split()[0].partition(":")
    call = f"import sys; from {module} import {function}; {function}(['--help'])"
    env = environment | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", call],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a run's folder, or a checkpoint file" in done.stdout
