"""The Ray Serve application, as ``serve run`` and ``serve deploy`` build it from their config."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from services.gateway.settings import GatewaySettings, check_bind
from services.policies.loading import load
from services.serving.classifier_policy import policy_factories
from services.serving.gateway_deployment import GatewayReplica
from services.serving.pool_deployment import PoolReplica
from services.serving.request_router import DeviceSecondsRouter
from services.serving.settings import Autoscaling, Pool
from services.serving.settings import Deployment as Settings
from services.serving.shared_metrics import environment_of
from services.serving.tuned import check_tuning

HEALTH_CHECK_PERIOD_SECONDS = 5.0
HEALTH_CHECK_TIMEOUT_SECONDS = 30.0
REPORT_PERIOD_SECONDS = 2.0
"""How often Serve asks a replica for what gateways that have no answers of it should know."""
QUEUE_POLICY = "services.serving.autoscaling:QueuePolicy"
RAYS_LOGS = {"encoding": "JSON", "enable_access_log": False}
"""What Serve itself says goes to its session's files; of requests the gateway tells."""


def build(args: dict[str, Any]) -> Application:
    """Build the application from the ``args`` of its entry in the Serve config.

    Raises: see `built_of`.
    """
    return built_of(args, PoolReplica)


def built_of(args: dict[str, Any], replica: type[PoolReplica]) -> Application:
    """The application of `build`, with another class for the replicas of its pools apart.

    Args:
        args: see `services.serving.settings.Deployment`.
        replica: of each pool apart.

    Raises:
        pydantic.ValidationError: an argument is unknown or out of range.
        InvalidParameter: the gateway would be open to the network without a key, or a policy or a
            model's tuning cannot be used.
    """
    deployment = Settings.model_validate(args)
    settings = GatewaySettings(**deployment.gateway)
    check_bind(settings)
    load(settings.policies.rules, policy_factories(deployment.store))
    check_tuning(deployment.pools, deployment.store)
    environment = environment_of(deployment)
    handles = {
        pool.name: _pool(replica, pool, deployment, settings, environment)
        for pool in deployment.pools
        if pool.placement == "apart"
    }
    ongoing = max(pool.max_ongoing_requests for pool in deployment.pools)
    options: dict[str, Any] = {
        "name": "gateway",
        "num_replicas": deployment.gateway_replicas,
        "max_ongoing_requests": ongoing,
        "ray_actor_options": _actor(
            [p for p in deployment.pools if p.placement == "fused"],
            environment,
            own_cpus=deployment.gateway_num_cpus,
        ),
        "logging_config": RAYS_LOGS,
        **_life(max(pool.drain_seconds for pool in deployment.pools)),
    }
    gateway = serve.deployment(**options)(serve.ingress()(GatewayReplica))
    return gateway.bind(deployment.model_dump(), **handles)


def _pool(
    replica: type[PoolReplica],
    pool: Pool,
    deployment: Settings,
    settings: GatewaySettings,
    environment: dict[str, str],
) -> Application:
    scaling: dict[str, Any] = {"num_replicas": pool.replicas}
    if pool.autoscaling is not None:
        scaling = {"autoscaling_config": _autoscaling(pool.autoscaling)}
    options: dict[str, Any] = {
        "name": pool.name,
        "max_ongoing_requests": pool.max_ongoing_requests,
        "ray_actor_options": _actor([pool], environment),
        "logging_config": RAYS_LOGS,
        "request_router_config": _router(pool),
        **scaling,
        **_life(pool.drain_seconds),
    }
    return serve.deployment(**options)(replica).bind(
        pool.model_dump(),
        sorted(deployment.claimed_elsewhere(pool)),
        deployment.store,
        asdict(settings.image_limits),
        settings.model_dump(mode="json", include={"log", "tracing", "decoding", "pins"}),
    )


def _router(pool: Pool) -> RequestRouterConfig:
    """In Serve's own words."""
    config: dict[str, Any] = {"request_routing_stats_period_s": REPORT_PERIOD_SECONDS}
    if pool.routing == "device_seconds":
        config["request_router_class"] = DeviceSecondsRouter
    return RequestRouterConfig(**config)


def _autoscaling(asked: Autoscaling) -> dict[str, Any]:
    """In Serve's own words."""
    found: dict[str, Any] = {
        "min_replicas": asked.min_replicas,
        "max_replicas": asked.max_replicas,
        "look_back_period_s": asked.look_back_seconds,
        "upscale_delay_s": asked.upscale_delay_seconds,
        "downscale_delay_s": asked.downscale_delay_seconds,
    }
    if asked.queue_target is None:
        return {**found, "target_ongoing_requests": asked.target_ongoing_requests}
    own = {"target_queue_seconds": asked.queue_target}
    return {**found, "policy": {"policy_function": QUEUE_POLICY, "policy_kwargs": own}}


def _actor(pools: list[Pool], environment: dict[str, str], own_cpus: float = 0.0) -> dict[str, Any]:
    """What a replica that holds these pools asks Ray for; the gateway alone asks for no device."""
    resources = {
        "num_cpus": own_cpus + sum(pool.num_cpus for pool in pools),
        "num_gpus": sum(pool.num_gpus for pool in pools),
    }
    return {**resources, "runtime_env": {"env_vars": environment}} if environment else resources


def _life(drain_seconds: float) -> dict[str, float]:
    return {
        "graceful_shutdown_timeout_s": drain_seconds + 5.0,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": HEALTH_CHECK_PERIOD_SECONDS,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_SECONDS,
    }
