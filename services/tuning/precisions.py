"""Which precisions a device is quick at: searching the others would waste trials."""

from __future__ import annotations

from pathlib import Path

import torch

CPU_INFORMATION = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


def precisions_of(device: torch.device, information: Path = CPU_INFORMATION) -> tuple[str, ...]:
    """Of weights and activations; ``float32`` first.

    Args:
        device: what networks run on.
        information: what the system says of its processors.
    """
    if device.type == "cuda":
        return ("float32", "bfloat16", "float16")
    try:
        words = set(information.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        words = set()
    return ("float32", "bfloat16") if words & BFLOAT16_FLAGS else ("float32",)
