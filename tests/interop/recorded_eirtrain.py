"""Runs the installed script `eirtrain`, whose path and arguments follow, with `recorder`."""

from __future__ import annotations

import runpy
import sys

import recorder

if __name__ == "__main__":
    recorder.note("main")
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
