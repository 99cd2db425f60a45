"""Starting the trial in a process of its own, with a deadline; its figures, or why it has none."""

from __future__ import annotations

import json
import time
from typing import Any

from babygpt_exp.doctor.bounded import run_python
from babygpt_exp.doctor.plan import Plan
from babygpt_exp.hardware import EAGER_FLOPS

IMPORT_SECONDS = 60.0
"""How long the trial's imports may take."""

TRIAL_SECONDS = 40.0
"""How long its steps may take: usually ten."""

COMPILE_SECONDS = 150.0
"""How long compiling may take beside them; the run itself finds what was compiled in a cache."""

MOST_STEP_SECONDS = 15.0
"""A micro-batch that is expected to take longer is not tried."""

GPU_FLOPS = 1e13
"""What a GPU reaches at the least, for that."""

MEMORY_SHARE = 0.8
"""Share of the free memory that a trial may be expected to need."""


def attempt(
    overrides: list[str], plan: Plan, estimated_mb: float, available_mb: float | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The figures of a trial of these overrides, or why there are none, in a few words."""
    floor = GPU_FLOPS if plan.machine.accelerator == "gpu" else EAGER_FLOPS / 5
    seconds = plan.sizes.flops_per_token * plan.micro_batch_tokens / floor
    if plan.world > 1:
        return None, "several processes are not tried"
    if seconds > MOST_STEP_SECONDS:
        return None, "a step is too long to try"
    if available_mb is not None and estimated_mb > MEMORY_SHARE * available_mb:
        return None, "there is too little memory to try"
    return start(overrides, TRIAL_SECONDS + (COMPILE_SECONDS if plan.compiled else 0.0))


def start(overrides: list[str], seconds: float) -> tuple[dict[str, Any] | None, str | None]:
    """Run the trial; its imports come on top of the seconds."""
    begin, seconds = time.perf_counter(), IMPORT_SECONDS + seconds
    words = ["-m", "babygpt_exp.doctor.trial", *overrides]
    done = run_python(words, seconds, {"HYDRA_FULL_ERROR": "1"})
    if done is None:
        return None, f"the trial was not done after {seconds:.0f} s"
    if done.exit_status:
        return None, f"the trial failed: {done.last_words[:160]}"
    figures: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    figures["start_seconds"] = time.perf_counter() - begin - figures["trial_seconds"]
    return figures, None
