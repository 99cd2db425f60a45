"""Largest memory of training: of this process, of the GPU, and of the streamer beside it."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

from babygpt_exp.callbacks.metrics import peak_memory_mb


def forget_peak_memory(device: torch.device) -> None:
    """Count the largest memory of this process and of the device anew, from what is used now.

    Where the system does not allow it (it is Linux's way), all so far counts.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def memory_figures(device: torch.device) -> dict[str, float | None]:
    """Peaks so far in MB of 10^6 bytes: of the GPU's tensors where there is one, of processes."""
    process = round(peak_memory_mb(), 1)
    on_gpu = device.type == "cuda"
    peak = round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if on_gpu else process
    return {
        "peak_memory_mb": peak,
        "process_memory_mb": process,
        "streamer_memory_mb": streamer_memory_mb(),
    }


def streamer_memory_mb() -> float | None:
    """The embedded streamer's largest memory; None where there is none, or no list of children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for process_id in children.read_text().split() if children.exists() else []:
        if b"\0-m\0streamer\0" in Path(f"/proc/{process_id}/cmdline").read_bytes():
            return round(peak_memory_mb(process_id), 1)
    return None
