"""A packed call on its way through Ray Serve's router."""

from __future__ import annotations

from typing import Any

from services.serving.replica_loads import ReplicaLoads, Sent


class Errand(dict[str, Any]):
    """What a replica is told, and beside it what the router of this process has to know.

    Serve makes the router by itself, from values alone; the requests are what connects it with who
    sends them. On its way to another process an errand becomes the plain dictionary.

    Attributes:
        sent: the call, as the loads count it.
        loads: of the pool's replicas, as this gateway knows them.
    """

    def __init__(self, call: dict[str, Any], sent: Sent, loads: ReplicaLoads) -> None:
        """Take a packed call."""
        super().__init__(call)
        self.sent, self.loads = sent, loads

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)
