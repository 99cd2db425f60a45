"""`python docs/terminal.py [ARGUMENT ...]`: train on a terminal, and draw docs/terminal.svg.

What is drawn is what the run has really said: `python -m babygpt_exp ARGUMENT ...` in a
pseudo-terminal of 100 columns and a folder of its own. About a minute on two cores.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).resolve().parent
COLUMNS = 100
SECONDS = 600.0
"""How long the run may take."""

ARGUMENTS = (
    *("model=nano", "optimizer.lr=0.03", "run.prompts=[Steven]", "sampling.num_auto=0"),
    "run.sample_every_tokens=163840",
)
"""A run of a minute with one sample, so that all of it is on one picture."""

FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
CONTROL = re.compile(r"\r\n|\n|\r|\x1b\[(\d*)([A-Za-z])|\x1b\[\?\d+[hl]")


def main(arguments: list[str]) -> None:
    """Run, and write the picture."""
    with tempfile.TemporaryDirectory(prefix="run") as folder:
        said = on_a_terminal(arguments, folder)
        lines = [line.replace(f"{folder}/", "") for line in screen(said)]
    prompt = shlex.join(["python", "-m", "babygpt_exp", *arguments])
    (HERE / "terminal.svg").write_text(picture(prompt, lines), encoding="utf-8")


def on_a_terminal(arguments: list[str], folder: str) -> str:
    """All that the command has written to its terminal."""
    outer, inner = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-m", "babygpt_exp", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=inner,
        cwd=folder,
        env=os.environ | size | {"PYTHONPATH": str(HERE.parent), "WANDB_MODE": "offline"},
    ) as process:
        os.close(inner)
        said, deadline = b"", time.monotonic() + SECONDS
        with contextlib.suppress(OSError):  # Linux: the other end was closed
            while chunk := os.read(outer, 65536):
                said += chunk
                if time.monotonic() > deadline:
                    process.kill()
        os.close(outer)
        if process.wait(SECONDS):
            raise SystemExit(f"the run failed with exit status {process.returncode}")
    return said.decode()


def screen(said: str) -> list[str]:
    """The lines that are left on a terminal, with their colours.

    Knows what rich's live lines use: up, erase the line, back to its start. A line is always
    erased before it is written again.
    """
    lines, row, last = [""], 0, 0
    for found in CONTROL.finditer(said):
        lines[row] += said[last : found.start()]
        last, word = found.end(), found[0]
        if word.endswith("\n"):
            row += 1
            lines += [""] * (row == len(lines))
        elif found[2] == "m":
            lines[row] += word
        elif found[2] == "K":
            lines[row] = ""
        elif found[2] == "A":
            row = max(0, row - int(found[1] or 1))
    lines[row] += said[last:]
    return lines


def picture(prompt: str, lines: list[str]) -> str:
    """The lines as SVG, below the command; no font is fetched."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {prompt}", style="bold green"))
    console.print(Text("\n").join(Text.from_ansi(line) for line in lines))
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", FONT)
    svg = console.export_svg(title="babygpt", theme=MONOKAI, code_format=form, unique_id="run")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ARGUMENTS))
