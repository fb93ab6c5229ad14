"""Two replicas of a gateway on a Ray Serve of their own, without a proxy; prints what they say.

Run as a program: Ray reads its switches from the environment when it is imported.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.gateway.exchange import Exchange, InFlight
from services.serving.environment import prepare

REPLICAS = 2
REQUESTS = 16
WITHDRAWN = 8
PATIENCE = 60.0


class Holder:
    """What of a gateway's replica this needs: the requests that it answers."""

    def __init__(self) -> None:
        """Answer nothing yet."""
        self._in_flight, self._answering = InFlight(), ExitStack()
        self._exchanges: list[Exchange] = []

    async def hold(self, name: str) -> int:
        """Answer a request for ever; which replica does."""
        exchange = Exchange(name, task="generate")
        self._answering.enter_context(self._in_flight.entered(exchange))
        self._exchanges.append(exchange)
        return os.getpid()

    async def withdraw(self, request_id: str, owner: str) -> bool:
        """See `GatewayReplica.withdraw`."""
        return self._in_flight.withdraw(request_id, owner)

    async def delete(self, name: str, owner: str) -> tuple[int, bool]:
        """As the route does with a request that is not its own replica's."""
        from services.serving.siblings import withdraw_elsewhere  # noqa: PLC0415 - imports Ray

        return os.getpid(), await withdraw_elsewhere(name, owner)

    async def withdrawn(self) -> list[str]:
        """The requests of this replica that were withdrawn."""
        return [exchange.id for exchange in self._exchanges if exchange.withdrawn.is_set()]


def ask(handle: Any) -> dict[str, Any]:
    """Have every replica answer requests, and either be asked to withdraw them."""
    names = [f"request-{i}" for i in range(REQUESTS)]
    holders = {handle.hold.remote(name).result(PATIENCE) for name in names}
    answers = [handle.delete.remote(name, "").result(PATIENCE) for name in names[:WITHDRAWN]]
    others = [("nobody", ""), (names[-1], "somebody else")]
    told = handle.broadcast("withdrawn").results(timeout_s=PATIENCE)
    return {
        "holders": len(holders),
        "askers": len({asker for asker, _ in answers}),
        "found": [found for _, found in answers],
        "not_found": [handle.delete.remote(*other).result(PATIENCE)[1] for other in others],
        "withdrawn": sorted(name for some in told for name in some),
    }


def main(folder: Path) -> None:
    """Start, ask, print, stop."""
    prepare(os.environ, folder)
    import ray  # noqa: PLC0415 - after the environment is set
    from ray import serve  # noqa: PLC0415

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        _temp_dir=str(folder / "r"),
    )
    try:
        serve.start(proxy_location="Disabled")
        options: dict[str, Any] = {
            "num_replicas": REPLICAS,
            "ray_actor_options": {"num_cpus": 0.1},
        }
        application = serve.deployment(**options)(Holder).bind()
        print(json.dumps(ask(serve.run(application, name="gateway", route_prefix=None))))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
