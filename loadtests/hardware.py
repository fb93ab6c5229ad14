"""What a figure was measured on, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's own name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return names[0] if names else platform.processor() or "unknown"


def describe() -> dict[str, Any]:
    """The machine and the versions that matter to speed."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "onnxruntime", "ray", "diffusers")},
        "load_before": round(os.getloadavg()[0], 2),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    """Of a package; ``None`` where it is not installed, as on a host for engines alone."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def slug() -> str:
    """A file name for this hardware."""
    cores = len(os.sched_getaffinity(0))
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else processor()
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{cores}-cores".lower()).strip("-")


def kept(benchmark: str) -> dict[str, Any]:
    """What an earlier run on this hardware has kept; nothing when there was none."""
    path = _path(benchmark)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def keep(benchmark: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a result beside the others of this hardware, or into another folder."""
    path = (folder or RESULTS) / _path(benchmark).name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _path(benchmark: str) -> Path:
    return RESULTS / f"{benchmark}-{slug()}.json"
