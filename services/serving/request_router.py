"""Ray Serve's router of a pool apart: to the replica that will begin soonest.

Serve pickles this module whole, so what it shares with others of its process is imported.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ray.serve._private.common import RequestMetadata  # in methods' signatures, as the next is
from ray.serve._private.replica_result import ReplicaResult
from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from services.serving.errand import Errand
from services.serving.replica_loads import ReplicaLoads, unpack_report


class DeviceSecondsRouter(FIFOMixin, RequestRouter):
    """Sends each call where the least device time is queued, its model's loading included.

    What is no `services.serving.errand.Errand`, such as a question about a model, goes to the one
    of two replicas that answers fewer requests.
    """

    _seen: list[RunningReplica] | None = None
    _by_name: Mapping[str, RunningReplica] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See Ray Serve: ranks of replicas, the most preferred first."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        errand = _errand(pending_request)
        if errand is None:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        if candidate_replicas is not self._seen:
            self._look_at(candidate_replicas, errand.loads)
        ranked = errand.loads.ranked(errand.sent.model)
        # Counted at once: whoever chooses next must not wait until the replica has confirmed.
        errand.loads.assign(errand.sent, ranked[0])
        return [[self._by_name[name]] for name in ranked]

    def _get_pending_request_matching_metadata(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        """The call that a replica was chosen for, so that it gets that replica.

        Ray's own match is by the id of the HTTP request, which two calls of one request share: the
        second would wait for ever.
        """
        for pending in self._pending_requests_to_fulfill:
            if pending.metadata is request_metadata and not pending.future.done():
                return pending
        return None

    def on_request_routed(
        self,
        pending_request: PendingRequest,
        replica_id: ReplicaID,
        result: ReplicaResult,  # noqa: ARG002 - Ray's signature
    ) -> None:
        """See Ray Serve: a replica has taken the request."""
        errand = _errand(pending_request)
        if errand is not None:
            errand.loads.arrived(errand.sent, replica_id.unique_id)

    def _look_at(self, replicas: list[RunningReplica], loads: ReplicaLoads) -> None:
        """Take in a changed list; Serve makes a new one whenever a replica comes, goes or reports.

        One router has one sender of errands, so the loads are always the same.
        """
        self._seen = replicas
        self._by_name = {replica.replica_id.unique_id: replica for replica in replicas}
        loads.offer(list(self._by_name))
        for replica in replicas:
            if replica.routing_stats:
                loads.hear(unpack_report(replica.routing_stats))


def _errand(request: PendingRequest | None) -> Errand | None:
    given: list[Any] = request.args if request is not None else []
    return given[0] if given and isinstance(given[0], Errand) else None
