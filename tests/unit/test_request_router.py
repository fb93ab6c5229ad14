"""The router as Ray Serve calls it; the replicas are names, the choice is real."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from ray.serve._private.request_router.common import RequestRoutingContext
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import RequestRouter

from services.serving.errand import Errand
from services.serving.replica_loads import ReplicaLoads, Report, Sent, pack_report
from services.serving.request_router import DeviceSecondsRouter

MODEL = "m"


def router() -> RequestRouter:
    """As Serve makes it: of a class that was pickled whole."""
    config = RequestRouterConfig(request_router_class=DeviceSecondsRouter)
    made: RequestRouter = config.get_request_router_class()(
        DeploymentID("pool", "atelier"), DeploymentHandleSource.REPLICA
    )
    return made


def replica(name: str, queued: float) -> Any:
    said = pack_report(Report(name, 1.0, queued, {MODEL: 1.0}))
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats=said)


def request(*args: Any) -> Any:
    return SimpleNamespace(args=list(args), routing_context=RequestRoutingContext())


def errand(loads: ReplicaLoads, seconds: float = 1.0) -> Errand:
    return Errand({"model": MODEL}, Sent(MODEL, seconds), loads)


def chosen(found: list[list[Any]]) -> list[str]:
    return [one.replica_id.unique_id for rank in found for one in rank]


async def test_what_replicas_say_from_time_to_time_decides_where_nothing_else_is_known() -> None:
    own, loads = router(), ReplicaLoads()
    there = [replica("a", 9.0), replica("b", 0.5), replica("c", 4.0)]
    asked = request(errand(loads))
    assert chosen(await own.choose_replicas(there, asked)) == ["b", "c", "a"]
    assert asked.routing_context.should_backoff, "else Serve would ask again at once, for ever"


async def test_choices_of_one_moment_count_one_another() -> None:
    own, loads = router(), ReplicaLoads()
    there = [replica(name, 0.0) for name in "abcd"]
    sent = [request(errand(loads)) for _ in range(4)]
    found = await asyncio.gather(*(own.choose_replicas(there, each) for each in sent))
    assert {chosen(each)[0] for each in found} == set("abcd")


async def test_where_another_replica_took_the_request_it_counts_there() -> None:
    own, loads = router(), ReplicaLoads()
    asked = request(errand(loads, 3.0))
    ranked = chosen(await own.choose_replicas([replica("a", 0.0), replica("b", 0.0)], asked))
    other = cast("Any", SimpleNamespace(unique_id=ranked[1]))
    own.on_request_routed(asked, other, cast("Any", None))
    assert loads.queue_seconds(ranked[1]) == 3.0
    assert loads.queue_seconds(ranked[0]) == 0.0


async def test_questions_go_to_one_of_two() -> None:
    own = router()
    there = [replica(name, 0.0) for name in "abc"]
    for asked in (request("name"), request(), None):
        (rank,) = await own.choose_replicas(there, asked)
        assert len(rank) == 2
    (rank,) = await own.choose_replicas(there[:1], request("name"))
    assert len(rank) == 1
