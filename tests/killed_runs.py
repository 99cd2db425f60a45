"""A run that is killed at random: `python tests/killed_runs.py [--deaths 20] [--seed 1] [a=b]`.

It dies at random calls, also while it writes a checkpoint, and resumed each time; in the end
its curve, samples and checkpoints must be those of a run that nothing happened to, bit for bit.
Exit status 0 says that they are. Runs for some minutes, in a folder that it takes away again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
from pathlib import Path

from experiment_harness import EXPERIMENTS, TINY, run_all
from forked_processes import Death
from test_resume import learned, load, tensors

PLACES = {
    "babygpt_exp.module:GPTModule.training_step": 12,
    "babygpt_exp.module:GPTModule.validation_step": 4,
    "babygpt_exp.optimizer:Muon._step_muon": 15,
    "babygpt_exp.callbacks.samples:generate": 4,
    "babygpt_exp.callbacks.metrics:Metrics._log": 3,
    "babygpt_exp.callbacks.checkpoints:sync": 4,
    "babygpt_exp.callbacks.checkpoints:copy_whole": 2,
    "babygpt_exp.callbacks.resume:read_history": 1,
    "babygpt_exp.tracking.files:append_whole": 4,
    "torch:save": 2,
    "os:replace": 6,
    "os:fsync": 8,
}
"""Functions in which the run dies, and up to which call."""

RUN = (
    *TINY,
    "logger=none",
    "hardware.micro_batch_tokens=512",
    "run.max_tokens=65536",
    "run.log_every_tokens=3072",
    "run.checkpoint_every_tokens=2048",
    "run.eval_every_tokens=4096",
    "run.sample_every_tokens=8192",
)
"""Sixty-four steps of two parts, a checkpoint every other step."""


def deaths(count: int, seed: int) -> list[Death]:
    """Random ones; one in four by SIGTERM."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        place = draw.choice(list(PLACES))
        number = draw.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        found.append(Death(place, draw.randint(1, PLACES[place]), number))
    return found


def main() -> None:
    """Run the one and the other, say how each life ended, compare."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options, overrides = parser.parse_known_args()
    start = [*RUN, *overrides]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        jobs: list[tuple[list[str], Death | None]] = [([*start, "hydra.run.dir=whole"], None)]
        arguments = [*start, "hydra.run.dir=killed"]
        for death in deaths(options.deaths, options.seed):
            jobs.append((arguments, death))
            arguments = ["resume=killed"]
        ends = run_all([*jobs, (arguments, None)], cwd=cwd, env=env, seconds=3600)
        EXPERIMENTS.close()
        for (_, wanted), end in zip(jobs, ends, strict=False):
            print(f"{end.exit_code:4}", wanted or "")
        num_deaths = sum(end.exit_code != 0 for end in ends)
        assert ends[0].exit_code == ends[-1].exit_code == 0, ends[-1].errors
        compare(cwd / "whole", cwd / "killed")
    print(f"{num_deaths} deaths; curve, samples and checkpoints are equal, bit for bit")


def compare(one: Path, two: Path) -> None:
    """AssertionError where two runs differ."""
    assert learned(one) == learned(two)
    assert (one / "samples.jsonl").read_bytes() == (two / "samples.jsonl").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (dict(tensors(load(folder, name))) for folder in (one, two))
        assert ours.keys() == theirs.keys()
        for place, tensor in ours.items():
            assert tensor.equal(theirs[place]), (name, place)


if __name__ == "__main__":
    main()
