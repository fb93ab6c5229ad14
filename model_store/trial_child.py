"""Runs a stranger's graph once, in a process of its own with little memory and time.

Started by `model_store.trial` as a script; it imports nothing of Atelier. A line of JSON comes in,
followed by the graph's bytes; a line of JSON goes out.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import numpy as np
import onnxruntime


def main() -> int:
    """Read the task, run it, and print the outputs' shapes."""
    task = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_DATA, (task["memory"], task["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (task["seconds"], task["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        answer = _run(data, task)
    except MemoryError:
        answer = {"error": "out of memory"}
    except Exception as error:  # noqa: BLE001 - the parent wants whatever went wrong as a sentence
        answer = {"error": str(error)[:500]}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _run(data: bytes, task: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {}
    for tensor in task["inputs"]:
        kind = np.dtype(tensor["dtype"])
        values = random.standard_normal(tensor["shape"]) if kind.kind == "f" else 0
        feeds[tensor["name"]] = np.broadcast_to(values, tensor["shape"]).astype(kind)
    outputs = session.run(None, feeds)
    names = [output.name for output in session.get_outputs()]
    return {
        "outputs": [
            {"name": name, "shape": list(np.shape(value)), "dtype": str(np.asarray(value).dtype)}
            for name, value in zip(names, outputs, strict=True)
        ]
    }


if __name__ == "__main__":
    sys.exit(main())
