"""A desk: a folder in which a command of the documents finds what they take to be there."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from documented import Command
from experiment_harness import REPOSITORY, SECONDS, Outcome
from forked_processes import Forked, ForkServer


def texts(folder: Path) -> None:
    """Somebody's own text."""
    folder.mkdir(parents=True)
    for number in range(60):
        lines = [f"The {number}th of {folder.name} has {n} lines, no more.\n" for n in range(40)]
        (folder / f"{number}.txt").write_text("".join(lines))


def text(path: Path, num_paragraphs: int = 4000) -> None:
    """A file of text, of enough documents that some are held out."""
    lines = (f"Line {number} of a book.\n" * 9 + "\n" for number in range(num_paragraphs))
    path.write_text("".join(lines))


def book(path: Path) -> None:
    """A short one."""
    text(path, num_paragraphs=40)


def archive(path: Path) -> None:
    """Such a file in a tar archive."""
    text(path.with_name("book.txt"))
    with tarfile.open(path, "w") as made:
        made.add(path.with_name("book.txt"), "book.txt")


def some_lines(folder: Path) -> None:
    """A folder with a file of JSON lines."""
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "One more text."}\n')


def instructions(path: Path) -> None:
    """Prompts and responses, as Alpaca has them."""
    asked = [f"Is number {number} a river?" for number in range(200)]
    columns = {"instruction": asked, "input": [""] * 200, "output": ["Yes, it is."] * 200}
    pq.write_table(pa.table(columns), path)


def certificate(path: Path) -> None:
    """A certificate of 127.0.0.1 and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=here"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(path.with_name("k.pem")), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)


def token(path: Path) -> None:
    """A file with a token, that nobody else can read."""
    path.write_text("correct-horse-battery-staple\n")
    path.chmod(0o600)


PLACES: dict[str, Callable[[Path], None]] = {
    "my_texts": texts,
    "more_texts": texts,
    "TRAIN": texts,
    "VALIDATION": texts,
    "more": some_lines,
    "book.txt": book,
    "instructions.parquet": instructions,
    "tokens": token,
    "token": token,
    "c.pem": certificate,
    "thesis.tex": text,
    "corpus.tar": archive,
}
"""What the documents take to be there, and how it is made, beside runs and sweeps."""
RUNS = re.compile(r"outputs/DATE/(?:OTHER_)?TIME|\bRUN\b")


@dataclass
class Desk:
    """A folder in which a command finds what the documents take to be there."""

    folder: Path
    """Where it is typed; empty before."""
    run_folder: Path
    """A run that is complete."""
    forks: ForkServer
    """What processes are forked from."""
    env: dict[str, str]
    """A clean environment."""
    tree: Path = REPOSITORY
    """The repository, or a copy of it."""

    def lay(self, command: Command) -> None:
        """Make what a command names."""
        for name, make in PLACES.items():
            if re.search(rf"(^|[\s=\[,/]){re.escape(name)}($|[\s/\],])", command.text):
                make(self.folder / name)
        for name in RUNS.findall(command.text):
            if not (self.folder / name).exists():
                shutil.copytree(self.run_folder, self.folder / name)
        if "multirun/DATE/TIME" in command.text and "-m babygpt_exp " not in command.text:
            shutil.copytree(self.run_folder, self.folder / "multirun/DATE/TIME/0")

    def start(self, module: str, *words: str, **variables: str) -> Forked:
        """`python -m MODULE WORDS`."""
        env = self.env | variables
        return self.forks.start(module, *words, cwd=self.folder, env=env, text=True)

    def run(self, module: str, *words: str, **variables: str) -> Outcome:
        """The same to its end, which must be a good one."""
        process = self.start(module, *words, **variables)
        try:
            output, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == 0, f"{output}\n{errors}"
        return Outcome(process.returncode, output, errors, self.folder)

    @contextmanager
    def serving(self, module: str, *words: str) -> Iterator[str]:
        """The address that a server says, which ends well after SIGTERM."""
        process = self.start(module, *words)
        try:
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            line = process.stdout.readline().decode() if ready else ""
            assert line.startswith(("listening on ", "serving ")), (line, process.poll())
            yield line.split()[-1]
            process.terminate()
            _, errors = process.communicate(SECONDS)
            assert process.returncode == 0, errors
        finally:
            process.kill()
