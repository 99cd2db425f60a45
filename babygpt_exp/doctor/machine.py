"""What this machine has and what it can do, as plain values; nothing here asks the network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import netrc
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from babygpt_exp.doctor.limits import available_memory_mb, cpu_quota, read_lines
from babygpt_exp.hardware import has_native_bf16
from streamer.cache import default_cache_dir

EXTRAS = {
    "dashboard": ("wandb_workspaces",),
    "export": ("safetensors", "transformers"),
    "hf": ("huggingface_hub",),
    "lm-eval": ("lm_eval",),
    "optuna": ("optuna",),
    "ray": ("cloudpickle", "ray"),
    "s3": ("s3fs",),
    "slurm": ("cloudpickle", "submitit"),
}
"""The modules that each optional extra of the package brings."""

SHARED_MEMORY = Path("/dev/shm")
"""Where processes share memory, on Linux."""

WANDB_HOST = "api.wandb.ai"
"""W&B's server, unless WANDB_BASE_URL names another."""


def machine_facts() -> dict[str, Any]:
    """All that can be read without measuring."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(terse=True),
        "cpu": cpu_facts(),
        "memory": {"total_mb": total_memory_mb(), "available_mb": available_memory_mb()},
        "shared_memory_mb": free_mb(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        "gpus": [gpu_facts(number) for number in range(torch.cuda.device_count())],
        "no_gpu": why_no_gpu(),
        "disk": {
            "runs": place_facts(Path("outputs")),
            "sweeps": place_facts(Path("multirun")),
            "cache": place_facts(default_cache_dir()),
        },
        "extras": {name: all(map(is_installed, needed)) for name, needed in EXTRAS.items()},
    }


def cpu_facts() -> dict[str, Any]:
    """The CPU, and how much of it this process may use."""
    lines = read_lines(Path("/proc/cpuinfo"))
    fields = [tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line]
    names = [value for name, value in fields if name in ("model name", "Model")]
    sockets = [value for name, value in fields if name == "physical id"]
    cores = [value for name, value in fields if name == "core id"]
    return {
        "model": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(set(zip(sockets, cores, strict=False))) or None,
        "logical": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "quota": cpu_quota(),
        "threads": torch.get_num_threads(),
        "native_bf16": has_native_bf16(),
    }


def total_memory_mb() -> float | None:
    """Memory of the machine in MB of 10^6 bytes."""
    for line in read_lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / 1e6)
    return None


def gpu_facts(number: int) -> dict[str, Any]:
    """A CUDA GPU."""
    properties = torch.cuda.get_device_properties(number)
    free, _ = torch.cuda.mem_get_info(number)
    return {
        "name": properties.name,
        "memory_mb": round(properties.total_memory / 1e6),
        "free_mb": round(free / 1e6),
        "capability": f"{properties.major}.{properties.minor}",
    }


def why_no_gpu() -> str | None:
    """In a few words; None where there is a GPU."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not Path("/proc/driver/nvidia").exists() and shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver is installed"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all"
    return "the NVIDIA driver shows torch none"


def place_facts(folder: Path) -> dict[str, Any]:
    """A folder that may not be there yet: room for it, and whether it can be written."""
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    return {
        "path": str(folder),
        "free_mb": free_mb(place),
        "writable": is_writable(place),
        "device": place.stat().st_dev,
    }


def free_mb(folder: Path) -> float:
    """Room that a user has left on a folder's disk, in MB of 10^6 bytes."""
    return round(shutil.disk_usage(folder).free / 1e6)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made there; tried, since a mode says nothing of a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def wandb_facts() -> dict[str, Any]:
    """The package W&B and whether a key for its server is there, found without asking it."""
    return {"version": importlib.metadata.version("wandb"), "logged_in": has_wandb_key()}


def has_wandb_key() -> bool:
    """Whether WANDB_API_KEY or a netrc file has a key, where wandb itself looks for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "")
    host = urlparse(address).hostname or WANDB_HOST
    files = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    for file in (Path(os.path.expanduser(name)) for name in files if name):
        try:
            if file.is_file() and netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
