"""Groups `hardware` and `precision`: on what a run computes, and how exactly."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from babygpt_exp.errors import ConfigError


@dataclass
class PrecisionConfig:
    """Arithmetic of training."""

    name: Literal["bf16-mixed", "16-mixed", "bf16-true", "32-true"]
    """The option of group `precision`, in Lightning's words."""


@dataclass
class HardwareConfig:
    """Where a run computes."""

    name: Literal["auto", "cpu", "gpu"]
    """The option of group `hardware`."""
    compile: Literal["auto", True, False]
    """torch.compile: auto is where a compiler is found and the run is long enough to earn it."""
    compile_mode: Literal[
        "default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"
    ]
    """torch.compile's mode; reduce-overhead and max-autotune replay CUDA graphs."""
    micro_batch_tokens: int | None
    """Tokens computed at once; null is the whole batch up to what suits the device."""
    num_threads: int | None
    """CPU threads; null leaves torch's choice, one a core."""

    def __post_init__(self) -> None:
        problems = [
            f"hardware.{name}={value} must be at least 1"
            for name, value in vars(self).items()
            if type(value) is int and value < 1
        ]
        if problems:
            raise ValueError("; ".join(problems))


@dataclass
class ParallelConfig(HardwareConfig):
    """`hardware=ddp`, `fsdp`, `slurm`: several processes, each with a part of every batch."""

    name: Literal["ddp", "fsdp", "slurm"]  # type: ignore[assignment]
    accelerator: Literal["auto", "cpu", "gpu"]
    """What each process computes on: auto is a GPU if there is one, else the CPU."""
    devices: int | Literal["auto"]
    """Processes on this machine: auto is as many as torchrun or SLURM has started, else one a GPU.
    Without those two the command starts them itself."""
    strategy: Literal["ddp", "fsdp"]
    """ddp has all of the model in each process, fsdp a part of each weight (FSDP2)."""

    @property
    def on_gpu(self) -> bool:
        """Whether processes compute on GPUs."""
        return self.accelerator != "cpu" and torch.cuda.is_available()

    @property
    def num_processes(self) -> int:
        """Processes to start on this machine. Raises ConfigError if there are not so many GPUs."""
        num_gpus = torch.cuda.device_count() if self.on_gpu else 0
        if self.devices == "auto":
            if not num_gpus:
                raise ConfigError(
                    f"hardware={self.name} on a CPU needs hardware.devices=N, processes that share "
                    "its cores"
                )
            return num_gpus
        if num_gpus and self.devices > num_gpus:
            raise ConfigError(f"hardware.devices={self.devices}, but there are {num_gpus} GPUs")
        return self.devices


HARDWARE: dict[str, type[HardwareConfig]] = {
    **dict.fromkeys(("auto", "cpu", "gpu"), HardwareConfig),
    **dict.fromkeys(("ddp", "fsdp", "slurm"), ParallelConfig),
}
"""The dataclass of each option of group `hardware`."""


@dataclass(frozen=True)
class Machine:
    """What a process computes on, decided."""

    accelerator: Literal["cpu", "gpu"]
    """Lightning's word for it."""
    description: str
    """For people: the GPU's name, or the CPU's threads."""
    notes: list[str]
    """What a user should know of this choice, a line each."""

    @property
    def device(self) -> torch.device:
        """The device of the model; of several GPUs the process's own."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")


def choose_machine(hardware: HardwareConfig, precision: PrecisionConfig) -> Machine:
    """The machine that a config asks for; ConfigError where it can not be had."""
    has_gpu = torch.cuda.is_available()
    wanted = hardware.accelerator if isinstance(hardware, ParallelConfig) else hardware.name
    if wanted == "gpu" and not has_gpu:
        key = "hardware" if wanted == hardware.name else "hardware.accelerator"
        raise ConfigError(f"{key}=gpu needs a CUDA GPU and there is none; use {key}=cpu")
    if is_sharded(hardware) and precision.name == "16-mixed":
        raise ConfigError("precision=16-mixed has no FSDP; use bf16-mixed, or hardware=ddp")
    if has_gpu and wanted != "cpu":
        return gpu(precision)
    if precision.name == "16-mixed":
        raise ConfigError("precision=16-mixed needs a GPU; on a CPU use precision=bf16-mixed")
    num_threads = hardware.num_threads or torch.get_num_threads()
    notes = []
    if precision.name.startswith("bf16") and not has_native_bf16():
        notes.append("this CPU has no bfloat16 arithmetic: precision=32-true is faster on it")
    return Machine("cpu", f"CPU, {num_threads} threads", notes)


def is_sharded(hardware: HardwareConfig) -> bool:
    """Whether each process has a part of each weight."""
    return isinstance(hardware, ParallelConfig) and hardware.strategy == "fsdp"


def gpu(precision: PrecisionConfig) -> Machine:
    """The process's GPU, by itself the first."""
    notes = []
    if precision.name.startswith("bf16") and torch.cuda.get_device_capability() < (8, 0):
        notes.append("this GPU has no bfloat16 arithmetic: precision=16-mixed is faster on it")
    return Machine("gpu", torch.cuda.get_device_name(), notes)


def has_native_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (avx512_bf16, amx_bf16 or Arm's bf16).

    Only Linux says so in a file; elsewhere the answer is yes, so that nobody is misled.
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return True
    return "bf16" in info.read_text()


MICRO_BATCH_TOKENS = {"cpu": 2_048, "gpu": 65_536}
"""Most tokens computed at once. On two cores `baby` does 2,710 tokens/s in 1.7 GB with 2,048 and
2,670 in 2.9 GB with 8,192 (and 2,048 logits at once); on a GPU 65,536 tokens of 8,192 logits in
float32 take 2 GiB."""


def choose_micro_batch(
    hardware: HardwareConfig, machine: Machine, batch_tokens: int, context: int
) -> int:
    """Tokens computed at once: the largest even part of the batch that suits the device."""
    if hardware.micro_batch_tokens is not None:
        return hardware.micro_batch_tokens
    limit = max(context, MICRO_BATCH_TOKENS[machine.accelerator])
    rows = batch_tokens // context
    parts = (n for n in range(1, rows + 1) if rows % n == 0)
    return batch_tokens // next(n for n in parts if batch_tokens // n <= limit)


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next tensor, not to give it back to the system.

    Otherwise each large tensor is mapped, cleared and unmapped by the kernel anew, which takes
    more time than the arithmetic of a small model: uncompiled `nano` trains 2.2 times as fast
    with it, compiled `baby` 1.2 times. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_max, 0)


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, if there is one."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    return None


def why_not_compiled() -> str | None:
    """Why torch.compile can not work on this CPU, with what to do; None where it should."""
    if find_compiler() is None:
        return "no C++ compiler found; install g++"
    if " " in tempfile.gettempdir():
        return "torch's compiler takes no temporary folder with a space; set TMPDIR"
    return None


def do_without_openssl() -> None:
    """Let torch compile where the program openssl is missing, from here on.

    It asks that program for the checksum of a header that it compiles beforehand, to save time.
    """
    if shutil.which("openssl") is None:
        from torch._inductor import config

        config.cpp_cache_precompile_headers = False


COMPILE_PAYS_SECONDS = 240.0
"""An uncompiled run on two cores that is shorter is not compiled: compiling costs 40 seconds
and saves a sixth of the run."""

EAGER_FLOPS = 250e9
"""Arithmetic a second of an uncompiled `baby` on two cores in bfloat16."""


def choose_compile(
    hardware: HardwareConfig, machine: Machine, run_flops: float
) -> tuple[bool, str]:
    """Whether to compile the model, and why, in words."""
    if hardware.compile is False:
        return False, "off by hardware.compile=false"
    if machine.accelerator == "cpu" and (problem := why_not_compiled()):
        if hardware.compile is True:
            raise ConfigError(f"hardware.compile=true can not be had: {problem}")
        return False, f"off, which is slower: {problem}"
    if hardware.compile is True:
        return True, "on by hardware.compile=true"
    if machine.accelerator == "cpu" and run_flops / EAGER_FLOPS < COMPILE_PAYS_SECONDS:
        return False, "off: the run is too short to earn it"
    return True, "on"
