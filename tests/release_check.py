"""Can this commit be released? `python tests/release_check.py [--only NAMES] [--skip NAMES]`.

Prints one line a check; exit status 1 if one of them fails. `build`, `contents` and `wheel` make
the package and use it as whoever installs it; `clone` does what somebody new does, and takes long.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 3600.0
"""Most that a command may take."""
PYTHONS = ("3.11", "3.12", "3.13")
"""Versions that constraints.txt is for."""
SHIPPED = (
    "babygpt_exp/conf/config.yaml",
    "babygpt_exp/corpus/LICENSE",
    "babygpt_exp/corpus/sample.parquet",
    "babygpt_exp/py.typed",
    "babygpt_exp/report/template/page.html.j2",
    "babygpt_exp/serving/page.html",
    "hydra_plugins/babygpt_launcher/launcher.py",
    "streamer/py.typed",
    "streamer/status.html",
)
"""What a wheel must have beside its modules."""
IN_SOURCE = ("CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "tests/conftest.py")
"""What an sdist must have beside that."""
HOSTS = ("pypi" + r"\.org", "python" + r"hosted\.org", "registry" + r"\.npmjs", "test\\.pypi")
"""Registries: where packages come from is for whoever installs them to say."""
PLACES = ("/home/" + r"\w+", "/root" + "/", "/Users/" + r"\w+", "/work" + "/", "/tmp/" + "work")
"""Paths that one machine has."""


class FailedError(Exception):
    """What is not as it should be."""


class Release:
    """A checkout, and what is built of it in a folder that goes away."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self.project: dict[str, Any] = tomllib.loads(self.text("pyproject.toml"))["project"]

    def text(self, name: str) -> str:
        """A file's content."""
        return (self.root / name).read_text(encoding="utf-8")

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Standard output of a command; FailedError with its last lines if it fails."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            last = (done.stdout + done.stderr).strip().splitlines()[-8:]
            raise FailedError(f"{Path(command[0]).name}: " + "\n    ".join(last))
        return done.stdout

    def files(self) -> list[str]:
        """What git knows of, or would add."""
        listed = self.run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
        return [name for name in listed.split("\0") if name and (self.root / name).is_file()]

    def tree(self) -> str:
        """Nothing is changed and not committed."""
        changed = self.run("git", "status", "--porcelain").splitlines()
        if changed:
            raise FailedError(f"{len(changed)} files are not committed, such as {changed[0][3:]}")
        return "clean at " + self.run("git", "rev-parse", "--short", "HEAD").strip()

    def versions(self) -> str:
        """The version is the same everywhere, and the change log tells of it."""
        version = self.project["version"]
        cited = re.search(r"^version: (\S+)$", self.text("CITATION.cff"), re.MULTILINE)
        if cited is None or cited[1] != version:
            raise FailedError(f"pyproject.toml has {version}, CITATION.cff another")
        headings = re.split(r"^## ", self.text("CHANGELOG.md"), flags=re.MULTILINE)[1:]
        heading, _, body = headings[0].partition("\n")
        if heading.split()[0] == "Unreleased":
            if not re.search(r"^- ", body, re.MULTILINE):
                raise FailedError("nothing stands below Unreleased in CHANGELOG.md")
        elif heading.split()[0].strip("[]") != version:
            raise FailedError(f"CHANGELOG.md begins with {heading}, pyproject.toml has {version}")
        return f"{version}, newest heading of CHANGELOG.md: {heading}"

    def licences(self) -> str:
        """Those of code and corpus are there."""
        names = self.project["license-files"]
        if missing := [name for name in names if not (self.root / name).is_file()]:
            raise FailedError(f"missing: {', '.join(missing)}")
        return ", ".join(names)

    def texts(self) -> str:
        """No file names a registry, or a path that only one machine has."""
        pattern = re.compile(rf"(?<![\w.}}])(?:{'|'.join([*HOSTS, *PLACES])})")
        found = []
        for name in self.files():
            try:
                lines = self.text(name).splitlines()
            except UnicodeDecodeError:
                continue  # a picture, a corpus
            found += [f"{name}:{n}" for n, line in enumerate(lines, 1) if pattern.search(line)]
        if found:
            raise FailedError(f"a registry or a path of one machine in {', '.join(found)}")
        return f"{len(self.files())} files, none names a registry or a path of one machine"

    def pins(self) -> str:
        """constraints.txt has each package of the extra `dev` as it is installed, and no other."""
        lines = [line for line in self.text("constraints.txt").splitlines() if "==" in line]
        pins = {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines)}
        extras = self.project["optional-dependencies"]
        wanted = [*self.project["dependencies"], *extras["dev"]]
        needed = closure(wanted, ())
        all_extras = [text for texts in extras.values() for text in texts]
        possible = closure([*wanted, *all_extras], PYTHONS)
        loose = sorted(needed - pins.keys())
        other = sorted(n for n in needed & pins.keys() if (v := installed(n)) and v != pins[n])
        spare = sorted(pins.keys() - possible)
        if lines != sorted(lines, key=str.casefold):
            raise FailedError("constraints.txt is not in the order of the alphabet")
        for words, names in (("no pin", loose), ("not as pinned", other), ("not needed", spare)):
            if names:
                raise FailedError(f"constraints.txt, {words}: {', '.join(names)}")
        return f"{len(pins)} packages, each needed and as installed"

    def build(self) -> str:
        """A wheel and an sdist can be made."""
        wheel, source = self.built(".whl"), self.built(".tar.gz")
        return f"{wheel.name}, {source.name}"

    def built(self, suffix: str) -> Path:
        """The wheel or the sdist; made when first asked for."""
        place = self.scratch / "dist"
        if not place.exists():
            self.run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place)
        (found,) = place.glob(f"*{suffix}")
        return found

    def contents(self) -> str:
        """Both have what they must have, the wheel every option and nothing of the tests."""
        with zipfile.ZipFile(self.built(".whl")) as archive:
            wheel = set(archive.namelist())
        with tarfile.open(self.built(".tar.gz")) as source_archive:
            source = {name.partition("/")[2] for name in source_archive.getnames()}
        options = {
            f"babygpt_exp/{p.relative_to(self.root)}" for p in self.root.glob("conf/**/*.yaml")
        }
        missing = sorted({*SHIPPED, *options} - wheel)
        in_place = {name.replace("babygpt_exp/conf/", "conf/") for name in SHIPPED}
        missing += sorted({*in_place, *IN_SOURCE} - source)
        if sum(name.endswith("LICENSE") and "dist-info" in name for name in wheel) != 2:
            missing.append("the licences in the wheel's metadata")
        if missing:
            raise FailedError(f"missing: {', '.join(missing)}")
        if extra := [name for name in wheel if name.startswith(("tests/", "docs/"))]:
            raise FailedError(f"the wheel has {extra[0]}")
        return f"{len(wheel)} files in the wheel, {len(source)} in the sdist"

    def wheel(self) -> str:
        """Installed into a new environment in another folder, it helps and trains."""
        home = self.scratch / "an environment"
        venv.create(home, with_pip=True)
        python, babygpt = home / "bin/python", home / "bin/babygpt"
        pins = self.root / "constraints.txt"
        self.run(python, "-m", "pip", "install", "--quiet", "-c", pins, self.built(".whl"))
        outside = self.scratch / "somewhere else"
        outside.mkdir()
        where = "import babygpt_exp, streamer; print(babygpt_exp.__file__, streamer.__file__)"
        if self.run(python, "-c", where, cwd=outside).count(str(home)) != 2:
            raise FailedError("it is not the installed package that is imported")
        self.run(babygpt, "--help", cwd=outside)
        self.run(babygpt, "experiment=smoke", cwd=outside)
        (summary,) = outside.glob("outputs/*/*/summary.json")
        if '"completed"' not in summary.read_text():
            raise FailedError("the smoke run is not complete")
        return "installed elsewhere, babygpt --help and experiment=smoke"

    def docs(self) -> str:
        """They can be built, where they are more than files."""
        if not (self.root / "mkdocs.yml").exists():
            return "no mkdocs.yml: nothing to build"
        self.run("make", "docs")
        return "make docs"

    def clone(self) -> str:
        """A clone works for somebody without rights, in a folder with a space."""
        self.run(sys.executable, "tests/clean_clone.py")
        return "tests/clean_clone.py"


CHECKS: dict[str, Callable[[Release], str]] = {
    "tree": Release.tree,
    "versions": Release.versions,
    "licences": Release.licences,
    "texts": Release.texts,
    "pins": Release.pins,
    "build": Release.build,
    "contents": Release.contents,
    "wheel": Release.wheel,
    "docs": Release.docs,
    "clone": Release.clone,
}
"""All checks, the quick ones first."""


def installed(name: str) -> str | None:
    """The version of a package that is installed; None without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def closure(wanted: list[str], pythons: tuple[str, ...]) -> set[str]:
    """All packages that some requirements come to: here, or with any of several Pythons."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += required_by(name, extra, pythons)
    return {name for name, _ in found}


def required_by(name: str, extra: str, pythons: tuple[str, ...]) -> Iterator[Requirement]:
    """What an installed package needs with one of its extras."""
    if installed(name) is None:
        return
    environments: list[dict[str, str]] = [{"extra": extra}]
    environments += [{"extra": extra, "python_version": python} for python in pythons]
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def main() -> None:
    """Run the checks that are asked for, all of them whatever happens."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(CHECKS), help="names, with commas between")
    parser.add_argument("--skip", default="", help="names, with commas between")
    arguments = parser.parse_args()
    only, skip = arguments.only.split(","), arguments.skip.split(",")
    if unknown := {*only, *skip} - {*CHECKS, ""}:
        parser.error(f"no check {', '.join(sorted(unknown))}; there are: {', '.join(CHECKS)}")
    failed = False
    with tempfile.TemporaryDirectory(prefix="babygpt release ") as scratch:
        release = Release(REPOSITORY, Path(scratch))
        for name in (name for name in CHECKS if name in only and name not in skip):
            try:
                print(f"ok    {name}: {CHECKS[name](release)}", flush=True)
            except (FailedError, subprocess.TimeoutExpired) as error:
                failed = True
                print(f"FAIL  {name}: {error}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
