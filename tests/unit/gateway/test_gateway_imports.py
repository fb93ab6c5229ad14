"""The gateway starts without torch and without Ray."""

from __future__ import annotations

import subprocess
import sys


def test_the_gateway_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys, services.gateway.app; "
        "print([n for n in ('torch', 'ray', 'diffusers', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
