"""The Ray Serve application: ``serve run`` and ``serve deploy`` build it from ``deploy/serve.yaml``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from services.gateway.settings import GatewaySettings, check_bind
from services.serving.gateway_deployment import GatewayReplica
from services.serving.pool_deployment import PoolReplica
from services.serving.settings import Deployment, Pool

HEALTH_CHECK_PERIOD_SECONDS = 5.0
HEALTH_CHECK_TIMEOUT_SECONDS = 30.0


def build(args: dict[str, Any]) -> Application:
    """Build the application from the ``args`` of its entry in the Serve config.

    Raises:
        pydantic.ValidationError: an argument is unknown or out of range.
        InvalidParameter: the gateway would be open to the network without a key.
    """
    deployment = Deployment.model_validate(args)
    settings = GatewaySettings(**deployment.gateway)
    check_bind(settings)
    handles = {
        pool.name: _pool(pool, deployment, settings)
        for pool in deployment.pools
        if pool.placement == "apart"
    }
    ongoing = max(pool.max_ongoing_requests for pool in deployment.pools)
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica),
        name="gateway",
        num_replicas=deployment.gateway_replicas,
        max_ongoing_requests=ongoing,
        ray_actor_options=_resources([p for p in deployment.pools if p.placement == "fused"]),
        **_life(max(pool.drain_seconds for pool in deployment.pools)),
    )
    return gateway.bind(deployment.model_dump(), **handles)


def _pool(
    pool: Pool, deployment: Deployment, settings: GatewaySettings
) -> Application | DeploymentHandle:
    scaling: dict[str, Any] = {"num_replicas": pool.replicas}
    if pool.autoscaling is not None:
        scaling = {"autoscaling_config": pool.autoscaling.model_dump()}
    replica = serve.deployment(
        PoolReplica,
        name=pool.name,
        max_ongoing_requests=pool.max_ongoing_requests,
        ray_actor_options=_resources([pool]),
        **scaling,
        **_life(pool.drain_seconds),
    )
    return replica.bind(
        pool.model_dump(),
        sorted(deployment.claimed_elsewhere(pool)),
        deployment.store,
        asdict(settings.image_limits),
    )


def _resources(pools: list[Pool]) -> dict[str, float]:
    """What a replica that holds these pools asks Ray for; the gateway alone asks for nothing."""
    return {
        "num_cpus": sum(pool.num_cpus for pool in pools),
        "num_gpus": sum(pool.num_gpus for pool in pools),
    }


def _life(drain_seconds: float) -> dict[str, float]:
    return {
        "graceful_shutdown_timeout_s": drain_seconds + 5.0,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": HEALTH_CHECK_PERIOD_SECONDS,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_SECONDS,
    }
