"""What a peer's server does to a batch, by the model that it is told to serve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from loadtests.peers.one_evaluation import OneEvaluation

MODEL_VARIABLE = "PEER_MODEL"
"""Names the model in the environment of a peer's processes; without it they serve `DIFFUSION`."""
DIFFUSION = "shapes-ldm"


class Batching(NamedTuple):
    """Requests of a batch at most, and how long its first one waits for others."""

    most: int
    wait_seconds: float


FEW_AND_LONG = Batching(8, 0.01)
MANY_AND_SHORT = Batching(32, 0.002)
"""An evaluation of a small model takes about a millisecond: to wait longer only adds to it."""


class Work(Protocol):
    """Images for requests that came together."""

    def generate(self, requests: Sequence[dict[str, Any]]) -> list[bytes]:
        """PNG files, one for each request."""
        ...


def served() -> str:
    """The model that this process is told to serve."""
    return os.environ.get(MODEL_VARIABLE, DIFFUSION)


def batching() -> Batching:
    """What suits the model that is served."""
    return FEW_AND_LONG if served() == DIFFUSION else MANY_AND_SHORT


def open_work(*, threads: int | None = None) -> Work:
    """Open the model.

    Args:
        threads: of one evaluation of a small model; all cores when absent.
    """
    if served() != DIFFUSION:
        return OneEvaluation(served(), threads=threads)
    from loadtests.peers.whole_batches import WholeBatches  # noqa: PLC0415 - torch

    return WholeBatches()
