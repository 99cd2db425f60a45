"""The quick checks of `make release-check`: they hold here, and fail where they should."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from experiment_harness import REPOSITORY
from release_check import FailedError, Release, closure

NAMES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The files that know the version, to be changed."""
    for name in NAMES:
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def test_what_can_be_released_here(tmp_path: Path) -> None:
    release = Release(REPOSITORY, tmp_path)
    assert release.versions().startswith(release.project["version"])
    assert "LICENSE" in release.licences()


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="git says which files there are")
def test_no_file_names_a_registry_or_a_path_of_one_machine(tmp_path: Path) -> None:
    assert "none names" in Release(REPOSITORY, tmp_path).texts()


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("CITATION.cff", "version: ", "version: 9", "CITATION.cff another"),
        ("CHANGELOG.md", "- ", "", "nothing stands below Unreleased"),
        ("CHANGELOG.md", "## Unreleased", "## 9.9.9", "begins with 9.9.9"),
    ],
)
def test_versions_that_differ(copied: Path, name: str, old: str, new: str, problem: str) -> None:
    text = (copied / name).read_text()
    assert old in text
    (copied / name).write_text(text.replace(old, new))
    with pytest.raises(FailedError, match=problem):
        Release(copied, copied).versions()


def test_paths_and_registries_are_found(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied / "a.md").write_text("fine\nsee " + "/home" + "/somebody/notes\n")
    (copied / "b.bin").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(Release, "files", lambda self: ["a.md", "b.bin"])
    with pytest.raises(FailedError, match=r"in a\.md:2$"):
        Release(copied, copied).texts()


def test_packages_that_a_requirement_comes_to() -> None:
    assert {"pytest", "pluggy", "iniconfig"} <= closure(["pytest>=8"], ())
    assert "colorama" not in closure(["pytest>=8"], ("3.12",))  # for Windows
    assert closure(["no-such-package"], ()) == {"no-such-package"}
