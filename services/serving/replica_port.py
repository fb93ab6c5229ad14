"""Keeps the port by which Ray Serve's replicas call one another off the network.

Each replica of Ray Serve 2.60 opens a gRPC server for calls between deployments on all interfaces
(``ray/serve/_private/replica.py``, ``_on_initialized``), whatever Ray's other services listen on;
no setting says otherwise. Calls carry pickles, so whoever reaches that port could run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve._private import replica

LOCAL_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""``0`` where all of Ray is on this machine and speaks over the loopback."""
EVERYWHERE, LOOPBACK = "[::]:0", "127.0.0.1:0"


def stay_on_loopback(environment: Mapping[str, str]) -> None:
    """Have the server of this process's replica listen on the loopback alone, if Ray does.

    Called while a replica is constructed, which is before its server is opened.

    Args:
        environment: usually ``os.environ``.

    Raises:
        RuntimeError: this release of Ray opens the port in another way, which must be looked at
            before it is trusted.
    """
    if environment.get(LOCAL_VARIABLE) != "0":
        return
    bind = getattr(replica, "add_port_to_grpc_server", None)
    if bind is None:
        raise RuntimeError(
            "this release of Ray Serve binds the port between deployments in a way that is not "
            "known; install the release that constraints.txt names"
        )
    if getattr(bind, "stays_on_loopback", False):
        return

    def bind_locally(server: Any, address: str) -> Any:
        return bind(server, LOOPBACK if address == EVERYWHERE else address)

    bind_locally.stays_on_loopback = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = bind_locally  # type: ignore[attr-defined]
