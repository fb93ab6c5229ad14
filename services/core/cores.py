"""How many CPU cores this process may use: what it is bound to, and what its control group allows.

A container is often given a share of a machine without being bound to any of its cores; threads
beyond the share are stopped and started by the kernel, and are slower than none.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores(own: Path = OWN_GROUPS, root: Path = CONTROL_GROUPS) -> int:
    """Cores that the process is bound to, or its control group's quota if that is less.

    A share of a core counts as one. At least 1.

    Args:
        own: the file that lists the control groups of this process.
        root: where control groups are mounted.
    """
    bound = bound_cores()
    quotas = [quota for group in _groups(own, root) if (quota := _quota(group)) is not None]
    return max(1, min([len(bound), *(math.ceil(quota) for quota in quotas)]))


def bound_cores() -> frozenset[int]:
    """The cores that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _groups(own: Path, root: Path) -> list[Path]:
    """Folders of the process's control groups and of all that these lie in.

    Lines are ``0::/path`` (version 2) or ``4:cpu,cpuacct:/path`` (version 1). Inside a container
    the path may be the host's, of which only the root is mounted.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers if controllers else root
        group = mount / path.lstrip("/")
        found += [group, *(g for g in group.parents if g.is_relative_to(mount))]
    return found


def _quota(group: Path) -> float | None:
    """Cores that one control group may keep busy; ``None`` where it says nothing."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (group / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return share if share > 0 else None  # -1: no limit
