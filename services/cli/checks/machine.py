"""Reading what the kernel says of the machine and of this process's share of it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

GIB = 1 << 30


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_nvidia_device(root: Path = Path("/")) -> bool:
    """Whether the NVIDIA driver offers a device."""
    return (root / "dev/nvidia0").exists()


def words_of(file: Path) -> str:
    """What a file of the kernel's says; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """What the processor says that it can do; empty where the platform does not tell."""
    names = ("flags", "Features")
    return frozenset(
        word
        for line in words_of(root / "proc/cpuinfo").splitlines()
        if line.startswith(names)
        for word in line.partition(":")[2].split()
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that could be used now: what the kernel says, within the container's limit."""
    rows = dict(
        line.split(":", 1) for line in words_of(root / "proc/meminfo").splitlines() if ":" in line
    )
    if "MemAvailable" not in rows:
        return None
    available = int(rows["MemAvailable"].split()[0]) * 1024
    group = root / "sys/fs/cgroup"
    limit, used = (words_of(group / name) for name in ("memory.max", "memory.current"))
    if limit.isdecimal() and used.isdecimal():
        return min(available, int(limit) - int(used))
    return available
