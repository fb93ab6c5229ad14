"""Memory, disks and open files."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from model_store.store import Store, default_root
from services.cli.checks.finding import Finding, Surroundings
from services.cli.checks.machine import GIB, available_memory

LEAST_MEMORY = 2 * GIB
LEAST_DISK = GIB
LEAST_FILES = 4096
IN_MEMORY = 3
"""Of a model's files: the weights, a runtime's own order of them, and what an evaluation takes."""
MOST_LOADED = 64


def check_memory(surroundings: Surroundings) -> list[Finding]:
    """Memory that is free to use, by the machine and by the container's limit."""
    available = available_memory(surroundings.root)
    if available is None:
        return [Finding("note", "memory", "unknown on this platform")]
    text = f"{available / GIB:.1f} GiB available"
    if available < LEAST_MEMORY:
        why = "the idle service alone takes up to 2 GB"
        return [Finding("warning", "memory", text, why, "free some, or raise the limit")]
    return [Finding("ok", "memory", text)]


def check_models_fit(surroundings: Surroundings) -> list[Finding]:
    """Whether the models that may be loaded at once fit into memory."""
    available = available_memory(surroundings.root)
    if available is None:
        return []
    sizes = sorted((e.size for e in Store(default_root(os.environ)).entries()), reverse=True)
    pools = surroundings.arguments.get("pools") or [{}]
    most = max(int(pool.get("max_loaded") or MOST_LOADED) for pool in pools)
    needed = IN_MEMORY * sum(sizes[:most])
    text = f"about {needed / GIB:.1f} GiB for {min(most, len(sizes))} models at once"
    if needed > available:
        why = f"{available / GIB:.1f} GiB are available: the kernel would end the service"
        advice = (
            "lower `max_loaded` of the pools, or give big models a pool and a host of their own"
        )
        return [Finding("warning", "memory for models", text, why, advice)]
    return [Finding("ok", "memory for models", text)]


def check_disk(surroundings: Surroundings) -> list[Finding]:
    """Room for models, and for the files of jobs."""
    root = Store(default_root(os.environ)).user.root
    free = _free(root)
    found = []
    if free < LEAST_DISK:
        why, advice = "there is hardly room to add a model", "free some"
        found.append(Finding("warning", "disk", f"{free / GIB:.1f} GiB free", why, advice))
    settings = surroundings.settings
    if settings is not None and settings.jobs.enabled and settings.jobs.artefacts_url is None:
        room, most = _free(settings.jobs_folder), settings.jobs.total_bytes
        if room < most:
            text = f"{room / GIB:.1f} GiB free in {settings.jobs_folder}"
            why = f"files of jobs may take {most / GIB:.0f} GiB: the disk would be full first"
            advice = "lower ATELIER_JOBS__TOTAL_BYTES, or set ATELIER_JOBS__ARTEFACTS_URL"
            found.append(Finding("warning", "disk for jobs", text, why, advice))
    return found or [Finding("ok", "disk", f"{free / GIB:.1f} GiB free")]


def check_open_files(_: Surroundings) -> list[Finding]:
    """How many files and connections a process may have open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        why = "every connection is one, and so is every file that Ray maps"
        advice = "ulimit -n 65536, or LimitNOFILE=65536 of the unit"
        return [Finding("warning", "open files", f"at most {soft}", why, advice)]
    return [Finding("ok", "open files", f"at most {soft}")]


def _free(folder: Path) -> int:
    existing = next(f for f in (folder, *folder.parents) if f.is_dir())
    return shutil.disk_usage(existing).free
