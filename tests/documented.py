"""What stands in README.md and docs/*.md to be typed or to be put into a file.

A command is a line of a block of the shell, its continuations joined. Blocks are marked `bash`, or
not marked at all and begin with a program that is known; also by indentation, as Markdown has it.
Code with a path is a block whose fence has `title="PATH"`: a new file, or, marked `diff`, a
change of one that is there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
PROGRAMS = re.compile(
    r"(\w+=\S* )?(babygpt(-\w+)?|cd|curl|docker|git|kubectl|make|pip|python|srun|torchrun|wandb) "
)
"""How a block begins that is not marked and has commands."""
FENCE = re.compile(r"^ *(```+|~~~+)(\w*)[ \t]*(.*)$")
OPERATORS = ("&&", ";", "|", "&")
"""What ends a command in a line."""


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    page: str
    """Path in the repository."""
    line: int
    """Where its text begins, from 1."""
    language: str
    """What it is marked with; empty where it is not."""
    title: str
    """The file that it is, or is for; empty for none."""
    text: str
    """Its lines."""


@dataclass(frozen=True)
class Command:
    """What one types."""

    page: str
    """Path in the repository."""
    line: int
    """Where it begins."""
    words: tuple[str, ...]
    """Program and arguments, as the shell would split them."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that are set for it."""

    @property
    def text(self) -> str:
        """Its words, with spaces between."""
        return " ".join(self.words)

    def __str__(self) -> str:
        return f"{Path(self.page).stem}:{self.line}: {self.text}"

    def with_words(self, *words: str) -> Command:
        """The same with others."""
        return replace(self, words=words)


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    name = page.relative_to(REPOSITORY).as_posix()
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        begin = at + 1
        if opened:
            while not lines[begin].strip().startswith(opened[1]):
                begin += 1
            title = re.search(r'title="([^"]+)"', opened[3])
            text = "\n".join(lines[at + 1 : begin]) + "\n"
            yield Block(name, at + 2, opened[2], title[1] if title else "", text)
            at = begin + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while begin < len(lines) and (lines[begin].startswith("    ") or not lines[begin]):
                begin += 1
            yield Block(name, at + 1, "", "", "\n".join(line[4:] for line in lines[at:begin]))
            at = begin
        else:
            at += 1


def is_shell(block: Block) -> bool:
    """Whether a block has commands; a script is code."""
    if block.text.startswith("#!"):
        return False
    return block.language == "bash" or (not block.language and bool(PROGRAMS.match(block.text)))


def commands(page: Path) -> list[Command]:
    """The commands of a page, in order."""
    return [each for block in blocks(page) if is_shell(block) for each in commands_in(block)]


def commands_in(block: Block) -> Iterator[Command]:
    """The commands of a block of the shell."""
    line, begin, typed = block.line, block.line, ""
    for text in block.text.splitlines():
        typed += text.removesuffix("\\")
        line += 1
        if text.endswith("\\"):
            continue
        for words in split(typed):
            yield command(block.page, begin, words)
        begin, typed = line, ""
    assert not typed, f"{block.page}:{begin} goes on behind its block"


def split(typed: str) -> Iterator[list[str]]:
    """The words of each command of a line; what is written to a file is not among them."""
    lexer = shlex.shlex(typed, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    to_file = False
    for word in lexer:
        if word in OPERATORS:
            if words:
                yield words
            words, to_file = [], False
        elif set(word) <= {"<", ">"}:
            to_file = True
        elif not to_file:
            words.append(word)
    if words:
        yield words


def command(page: str, line: int, words: list[str]) -> Command:
    """A command of its words, of which the first may set variables."""
    count = 0
    while re.match(r"[A-Za-z_]\w*=", words[count]):
        count += 1
    variables = tuple((name, value) for name, _, value in (w.partition("=") for w in words[:count]))
    return Command(page, line, tuple(words[count:]), variables)


def files(page: Path) -> list[Block]:
    """The code of a page that has a path; other titles are captions."""
    return [block for block in blocks(page) if "/" in block.title]


def write(block: Block, tree: Path) -> None:
    """Put code into a copy of the repository: a file that is new, or a change of one."""
    path = tree / block.title
    if block.language == "diff":
        path.write_text(changed(path.read_text(encoding="utf-8"), block), encoding="utf-8")
        return
    assert not path.exists(), f"{block.page}:{block.line}: {block.title} is there already"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def changed(text: str, block: Block) -> str:
    """A file with a change made: the lines with a space or a minus stand there once, together."""
    for hunk in re.split(r"^@@.*\n", block.text, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{block.page}:{block.line}: not once there:\n{before}"
        text = text.replace(before, after)
    return text
