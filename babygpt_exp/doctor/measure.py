"""What this machine can do, measured: products in each precision, and a trial compilation."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from babygpt_exp.doctor.bounded import run_python
from babygpt_exp.errors import ConfigError, one_line
from babygpt_exp.hardware import (
    HardwareConfig,
    PrecisionConfig,
    choose_machine,
    find_compiler,
    why_not_compiled,
)
from babygpt_exp.options import options
from babygpt_exp.peak import (
    PEAK_SIZE,
    matmul_dtype,
    measure_peak,
    product_seconds,
    random_matrix,
)

PEAK_SECONDS = 1.0
"""How long the products of a precision are measured."""

SMALL_SIZE = 1024
"""Rows and columns of the first products, which tell whether large ones would take too long."""

SLOW_SECONDS = 1.0
"""A large product that would take longer is not tried: the small one's speed counts."""

COMPILE_SECONDS = 180.0
"""How long the trial compilation may take, torch's own imports included."""

TRIVIAL = """
import time, torch
from babygpt_exp.hardware import do_without_openssl
do_without_openssl()
start = time.perf_counter()
f = torch.compile(lambda x: (x.sin() + 1).sum())
x = torch.linspace(0, 1, 64)
assert torch.allclose(f(x), (x.sin() + 1).sum())
print("compiled in", time.perf_counter() - start)
"""
"""A program that compiles next to nothing and compares the result."""


def precision_facts(hardware: HardwareConfig, *, measured: bool) -> dict[str, dict[str, Any]]:
    """Each option of `precision`: GFLOP/s of its products on what `hardware` chooses, whether
    the device has its arithmetic, and why it can not be used, if so."""
    found: dict[str, dict[str, Any]] = {}
    speeds: dict[torch.dtype, float] = {}
    for name in options("precision"):
        precision = PrecisionConfig(name)  # type: ignore[arg-type]
        found[name] = {"gflops": None, "native": None, "problem": None}
        try:
            machine = choose_machine(hardware, precision)
        except ConfigError as error:
            found[name]["problem"] = one_line(error)
            continue
        found[name]["native"] = not machine.notes
        if measured:
            dtype = matmul_dtype(precision)
            if dtype not in speeds:
                speeds[dtype] = quick_peak(dtype, machine.device)
            found[name]["gflops"] = round(speeds[dtype] / 1e9, 1)
    return found


def quick_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of large products, or of small ones where large ones would take too long."""
    shape = (SMALL_SIZE, SMALL_SIZE)
    a, b = random_matrix(shape, dtype, device), random_matrix(shape, dtype, device)
    small = 2 * SMALL_SIZE**3 / product_seconds(a, b, 0.0)
    if 2 * PEAK_SIZE**3 / small > SLOW_SECONDS:
        return small
    return max(small, measure_peak(dtype, device, PEAK_SECONDS))


def compiler_facts(*, measured: bool) -> dict[str, Any]:
    """The C++ compiler, and whether torch.compile works with it; None where that was not tried."""
    found: dict[str, Any] = {"path": find_compiler(), "works": None, "seconds": None}
    found["problem"] = why_not_compiled()
    if found["problem"] is not None:
        found["works"] = False
    elif measured:
        found |= try_to_compile()
    return found


def try_to_compile() -> dict[str, Any]:
    """Compile next to nothing in a process and a cache of its own, so that nothing is left."""
    with tempfile.TemporaryDirectory(prefix="babygpt-doctor-") as folder:
        variables = {"TORCHINDUCTOR_CACHE_DIR": folder}
        done = run_python(["-c", TRIVIAL], COMPILE_SECONDS, variables)
    if done is None:
        problem = f"not done after {COMPILE_SECONDS:.0f} s; train with hardware.compile=false"
        return {"works": False, "problem": problem}
    words = done.output.split()
    if done.exit_status == 0 and words[:2] == ["compiled", "in"]:
        return {"works": True, "seconds": round(float(words[2]), 1)}
    return {"works": False, "problem": why_not(done.errors)}


def why_not(errors: str) -> str:
    """The reason in a failed compilation's output, with what helps."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    marked = [line for line in lines if "error:" in line.lower() or "Error:" in line]
    reason = marked[-1] if marked else lines[-1] if lines else "no reason given"
    if "Python.h" in errors:
        return f"{reason[:120]}; install Python's headers (python3-dev)"
    return f"{reason[:160]}; install g++ anew, or train with hardware.compile=false"
