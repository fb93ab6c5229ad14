"""The first run of a stranger's graph: apart from us, in bounded time and memory.

A graph may crash its runtime, never end, or make gigabytes from a few numbers, whatever its
declared shapes say. All of that happens to a child process, before anything is stored.
"""

from __future__ import annotations

import json
import math
import os
import subprocess  # nosec B404 - starts this interpreter on a file of ours
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.limits import StoreLimits
from model_store.networks.graph import GraphTensor
from services.core.errors import InvalidNetwork

BYTES_PER_FILE_BYTE = 6
_PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR")


def try_graph(
    name: str,
    data: bytes,
    feeds: dict[str, Tensor],
    limits: StoreLimits,
    *,
    threads: int,
    expected: str,
) -> Sequence[GraphTensor]:
    """Run a graph once on tensors of the shapes and types of ``feeds``.

    Args:
        name: what to call the network in an error.
        data: the graph.
        feeds: tensors by the graph's own names; their values are not used.
        limits: time, memory and output sizes.
        threads: how many the child may compute with.
        expected: what the manifest says of the output, for the error.

    Returns:
        The outputs with the shapes that they had.

    Raises:
        InvalidNetwork: it fails, crashes, or takes more time or memory than it may.
    """
    memory = limits.trial_bytes + BYTES_PER_FILE_BYTE * len(data)
    task = {
        "threads": threads,
        "memory": memory,
        "seconds": math.ceil(limits.trial_seconds) * threads,
        "inputs": [
            {"name": key, "shape": list(value.shape), "dtype": str(value.dtype).split(".")[1]}
            for key, value in feeds.items()
        ],
    }
    answer = _ask(name, json.dumps(task).encode() + b"\n" + data, limits, expected)
    if "error" in answer:
        raise InvalidNetwork(
            f"network '{name}' was tried on rows of the expected shape and failed: "
            f"{answer['error']} (the manifest says {expected})"
        )
    outputs = [
        GraphTensor(o["name"], tuple(o["shape"]), getattr(torch, o["dtype"], torch.float32))
        for o in answer["outputs"]
    ]
    for output in outputs:
        check_size(name, output.name, output.shape[1:], limits, expected)
    return outputs


def check_size(
    network: str, output: str, row: Sequence[int | None], limits: StoreLimits, expected: str
) -> None:
    """Refuse an output whose rows are larger than any image; raises `InvalidNetwork`."""
    if math.prod(d or 1 for d in row) > limits.output_values:
        shown = "x".join("any" if d is None else str(d) for d in row)
        raise InvalidNetwork(
            f"output '{output}' of network '{network}' has rows of {shown} numbers; at most "
            f"{limits.output_values:,} are taken, and the manifest says {expected}"
        )


def _ask(name: str, task: bytes, limits: StoreLimits, expected: str) -> dict[str, Any]:
    child = Path(__file__).with_name("trial_child.py")
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, a file of ours  # nosec B603
            [sys.executable, "-I", str(child)],
            input=task,
            capture_output=True,
            timeout=limits.trial_seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidNetwork(
            f"network '{name}' took more than {limits.trial_seconds:g} s for a few rows"
        ) from error
    if done.returncode != 0 or not done.stdout:
        raise InvalidNetwork(
            f"network '{name}' broke the process that tried it (exit {done.returncode}): it "
            f"crashes, or needs more than the {limits.trial_bytes >> 20} MiB allowed for a few "
            f"rows; the manifest says {expected}"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
