"""What a sweep costs beyond its jobs: python tests/soak/sweep.py [--jobs 24] [OVERRIDE ...].

Prints one JSON object: `overhead` is the time of the whole command, imports included, over the sum
of the jobs' own times (`seconds` in summary.json), minus 1; `parent_mb` is the resident memory of
the process that starts the jobs, after each quarter of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICK_SECONDS = 0.5


def resident_mb(process_id: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def num_ended(folder: Path) -> int:
    """Jobs that have written their last summary."""
    return sum(
        json.loads(path.read_text())["status"] == "completed"
        for path in folder.glob("*/summary.json")
    )


def main() -> None:
    """Run the sweep in a temporary folder and watch it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("overrides", nargs="*", default=["model=nano"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "sweep")
        start = time.monotonic()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "babygpt_exp", "-m"),
                *options.overrides,
                f"seed=range(1,{options.jobs + 1})",
                f"hydra.sweep.dir={folder}",
            ],
            stdout=subprocess.DEVNULL,
        )
        memory: dict[int, float] = {}
        try:
            while process.poll() is None:
                memory[num_ended(folder)] = resident_mb(process.pid)
                time.sleep(TICK_SECONDS)
        finally:
            process.terminate()
            process.wait(60)
        wall = time.monotonic() - start
        summaries = [json.loads(path.read_text()) for path in folder.glob("*/summary.json")]
    own = [summary["seconds"] for summary in summaries]
    quarters = sorted(memory)[1 :: max(1, options.jobs // 4)]
    figures = {
        "jobs": len(own),
        "completed": sum(summary["status"] == "completed" for summary in summaries),
        "exit_code": process.returncode,
        "seconds": round(wall, 1),
        "jobs_own_seconds": round(sum(own), 1),
        "overhead": round(wall / sum(own) - 1, 3),
        "parent_mb": [round(memory[n], 1) for n in quarters],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
