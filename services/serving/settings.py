"""What ``deploy/serve.yaml`` says: the gateway and its pools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from model_store.manifest import TorchOptions
from services.serving.in_process import EVERY_MODEL


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Strict):
    """How many replicas a pool may have; see Ray Serve's ``autoscaling_config``."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 32.0


class Pool(_Strict):
    """Some models on a share of a device.

    Attributes:
        name: how metrics and status call it.
        placement: ``fused`` into the gateway's replicas (no hop), or ``apart`` in its own.
        models: which models; ``*`` takes all that no other pool names.
        preload: models that are loaded before the replica says that it is ready; ``*`` for all.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        num_gpus: share of a GPU that each replica asks Ray for.
        num_cpus: CPU cores that each replica asks Ray for.
        threads: the most CPU threads of one network evaluation, 0 for as many as the process may
            use; how many each network is worth is measured when it is loaded.
        torch: by model, options that take the place of the manifest's own for networks that run on
            torch; ``*`` for every model that is not named.
        queue_seconds: the most predicted device time of accepted work.
        max_loaded: models held at once; the least recently used idle one leaves first.
        max_ongoing_requests: requests that a replica holds; it queues them itself.
        replicas: a fixed number of replicas, unless ``autoscaling`` is given.
        drain_seconds: how long accepted work may go on when a replica is told to stop.
        stall_seconds: a loop that gives no sign of life for this long is restarted.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    placement: Literal["fused", "apart"] = "apart"
    models: list[str] = [EVERY_MODEL]
    preload: list[str] = []
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_gpus: Annotated[float, Field(ge=0)] = 0
    num_cpus: Annotated[float, Field(ge=0)] = 1
    threads: Annotated[int, Field(ge=0)] = 0
    torch: dict[str, TorchOptions] = {}
    queue_seconds: Annotated[float, Field(gt=0)] = 30.0
    max_loaded: Annotated[int, Field(ge=1)] = 64
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 4096
    replicas: Annotated[int, Field(ge=1)] = 1
    autoscaling: Autoscaling | None = None
    drain_seconds: Annotated[float, Field(ge=0)] = 20.0
    stall_seconds: Annotated[float, Field(gt=0)] = 60.0

    @field_serializer("torch")
    def _only_what_is_set(self, torch: dict[str, TorchOptions]) -> dict[str, Any]:
        return {name: options.model_dump(exclude_unset=True) for name, options in torch.items()}

    @property
    def takes_the_rest(self) -> bool:
        """Whether it serves every model that no other pool names."""
        return EVERY_MODEL in self.models


class Deployment(_Strict):
    """Arguments of the application; see ``deploy/serve.yaml``.

    ``gateway`` holds the fields of `services.gateway.settings.GatewaySettings`; ``store`` is the
    folder of the user's own models (the platform's data directory by default). ``metrics_folder``
    is where processes share their series, when there are several; a temporary one by default.
    """

    gateway: dict[str, Any] = {}
    gateway_replicas: Annotated[int, Field(ge=1)] = 1
    store: str | None = None
    metrics_folder: str | None = None
    pools: Annotated[list[Pool], Field(min_length=1)] = [Pool(name="default", placement="fused")]

    @model_validator(mode="after")
    def _pools_do_not_overlap(self) -> Deployment:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError(f"pool names must differ, got {names}")
        claimed = [m for pool in self.pools for m in pool.models]
        twice = sorted({m for m in claimed if claimed.count(m) > 1})
        if twice:
            raise ValueError(f"each model belongs to one pool; {', '.join(twice)} is claimed twice")
        return self

    def claimed_elsewhere(self, pool: Pool) -> frozenset[str]:
        """Models that other pools name."""
        others = (p for p in self.pools if p.name != pool.name)
        return frozenset(m for p in others for m in p.models if m != EVERY_MODEL)
