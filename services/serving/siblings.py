"""What the replicas of one gateway ask of one another."""

from __future__ import annotations

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError

from services.core.errors import Unavailable

PATIENCE_SECONDS = 5.0


async def withdraw_elsewhere(request_id: str, owner: str) -> bool:
    """Withdraw a request from whichever replica of this gateway is answering it.

    Whatever pools it is worked on in: the replica that answers it withdraws it from them.

    Raises:
        Unavailable: not every replica could be asked.
    """
    here = serve.get_replica_context()
    handle = serve.get_deployment_handle(here.deployment, here.app_name)
    asked = handle.broadcast("withdraw", request_id, owner)
    try:
        found = await asked.results_async(timeout_s=PATIENCE_SECONDS, return_exceptions=True)
    except (RayError, DeploymentUnavailableError, TimeoutError) as error:
        raise _not_asked() from error
    if any(answer is True for answer in found):
        return True
    if not all(answer is False for answer in found):
        raise _not_asked()
    return False


def _not_asked() -> Unavailable:
    return Unavailable(
        "not every replica of the gateway could be asked about this request; try again",
        retry_after=1.0,
    )
