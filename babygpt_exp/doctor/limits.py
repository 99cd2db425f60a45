"""What a process may use of a machine: its cores and memory, by affinity and by control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Where the system's files are."""


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the control groups allow; None where they set no limit."""
    found = []
    for folder in control_groups(root, "cpu"):
        words = read_words(folder / "cpu.max")  # version 2: quota and period, or "max"
        if not words:
            words = read_words(folder / "cpu.cfs_quota_us") + read_words(
                folder / "cpu.cfs_period_us"
            )
        if len(words) == 2 and all(word.isdigit() for word in words):
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def available_memory_mb(root: Path = ROOT) -> float | None:
    """Memory that can be had without swapping, in MB of 10^6 bytes: what the system has left, or
    what the control groups leave of it. None where no file says so."""
    found = []
    for line in read_lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024 / 1e6)
    for folder in control_groups(root, "memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            words = read_words(folder / limit) + read_words(folder / used)
            if len(words) == 2 and all(word.isdigit() for word in words):
                stat = dict(line.split() for line in read_lines(folder / "memory.stat"))
                in_use = int(words[1]) - int(stat.get(cached, 0))  # the kernel gives that back
                found.append((int(words[0]) - in_use) / 1e6)
    return max(0.0, min(found)) if found else None


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those above it, of versions 1 and 2."""
    for line in read_lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        if not names or controller in names.split(","):
            base = root / "sys/fs/cgroup" / (controller if names else "")
            folder = base / path.strip().lstrip("/")
            yield from (f for f in (folder, *folder.parents) if f == base or base in f.parents)


def read_lines(path: Path) -> list[str]:
    """Lines of one of the system's files; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def read_words(path: Path) -> list[str]:
    """Words of one of the system's files; none where there is no such file."""
    return " ".join(read_lines(path)).split()
