"""Has servers and clients suffer for a while: `make soak`.

Usage: .venv/bin/python tests/soak/soak.py --minutes N [--phases restart,flood,...] [--seed N].
Says what it finds while it runs, and in the end everything as one JSON object. Exits 1 where a
stream is not the undisturbed one, or a figure is out of its bound, and names it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faults
import flood
import growth
import resume
from measure import Report
from stage import Stage

from streamer.errors import one_line

FEWEST_LONG_SECONDS = 180.0

PHASES: dict[str, Callable[[Stage], None]] = {
    "restart": faults.restart,
    "link": faults.link,
    "replicas": faults.replicas,
    "reconnects": growth.reconnects,
    "flood": flood.flood,
    "resume": resume.resume,
    "gil": faults.gil,
    "stop": faults.stop,
}
"""All but `long`, which takes what is left of the time."""


def main() -> int:
    """Runs the phases; 0 when everything held."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=20.0, help="in all (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="of corpus and kills (default: 1)")
    parser.add_argument(
        "--phases",
        default=",".join([*PHASES, "long"]),
        help="which, with commas between (default: %(default)s)",
    )
    options = parser.parse_args()
    phases = options.phases.split(",")
    if unknown := [name for name in phases if name not in (*PHASES, "long")]:
        parser.error(f"no such phase: {', '.join(unknown)}; there are {', '.join(PHASES)}, long")
    ends = time.monotonic() + 60 * options.minutes
    report = Report()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        stage = Stage(Path(folder), report, options.seed)
        try:
            for name in sorted(phases, key="long".__eq__):
                run(stage, name, ends)
        finally:
            stage.close()
    print(json.dumps(report.payload(), indent=2))
    if report.broken:
        print(f"broken: {', '.join(report.broken)}", file=sys.stderr)
    return int(bool(report.broken))


def run(stage: Stage, name: str, ends: float) -> None:
    """One phase; what it cannot do is a broken figure, and the next one has its turn."""
    report = stage.report
    report.phase = name
    report.say("begins")
    try:
        if name == "long":
            growth.long(stage, max(FEWEST_LONG_SECONDS, ends - time.monotonic()))
        else:
            PHASES[name](stage)
    except Exception as error:  # whatever it is, the other phases have something to say too
        report.equal("fault", one_line(f"{type(error).__name__}: {error}"), None)
    finally:
        stage.close()


if __name__ == "__main__":
    sys.exit(main())
