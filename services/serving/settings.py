"""What ``deploy/serve.yaml`` says: the gateway and its pools."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_serializer,
    model_validator,
)

from model_store.manifest import ModelId, TorchOptions
from services.serving.loading import EVERY_MODEL

TARGET_QUEUE_SECONDS = 2.0
MOST_ROWS = 64
"""Networks are given no more rows at once."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Strict):
    """How many replicas a pool apart has.

    Attributes:
        min_replicas: 0 lets a pool that nobody asks anything of sleep; who asks first then waits
            for a replica to start.
        max_replicas: at least ``min_replicas``.
        target_queue_seconds: device seconds of work that each replica should hold; 2 where no
            target is given. Replicas that are busy for 85% of their time are kept all the same.
        target_ongoing_requests: requests that each replica should hold, instead.
        look_back_seconds: over which either is averaged.
        upscale_delay_seconds: for which more replicas must be wanted before they are started.
        downscale_delay_seconds: for which fewer must be wanted before one is stopped.
    """

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_queue_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    target_ongoing_requests: Annotated[float, Field(gt=0)] | None = None
    look_back_seconds: Annotated[float, Field(ge=1, le=3600)] = 20.0
    upscale_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    downscale_delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0

    @model_validator(mode="after")
    def _is_possible(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) must be at least min_replicas "
                f"({self.min_replicas})"
            )
        if None not in (self.target_queue_seconds, self.target_ongoing_requests):
            raise ValueError(
                "a pool has one target: give target_queue_seconds or target_ongoing_requests"
            )
        return self

    @property
    def queue_target(self) -> float | None:
        """Device seconds that each replica should hold; ``None`` where requests are counted."""
        if self.target_ongoing_requests is not None:
            return None
        return self.target_queue_seconds or TARGET_QUEUE_SECONDS


class Measured(_Strict):
    """What a tuning was measured on: for anything else it may be no better than none.

    Attributes:
        at: when.
        hardware: the device and its cores, as `services.serving.tuned.hardware` names them.
        model: the model's ``digest``, which changes whenever one of its files does.
    """

    at: datetime
    hardware: Annotated[str, Field(max_length=200)]
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Tuning(_Strict):
    """How one model is served, where that differs from what is measured when it is loaded.

    `atelier tune` finds these values; all may be written by hand.

    Attributes:
        step_rows: rows of one evaluation of the stepwise network, in place of the knee of its cost
            curve. Deadlines, and memory that runs out, still make batches smaller.
        decode_rows: as above, of the evaluation that makes images or answers.
        threads: the most CPU threads of one evaluation; at most the pool's.
        export: of networks that are stored twice, the one to run, in place of the faster.
        defaults: what requests that say nothing of these get, in place of the manifest's
            ``options.defaults``, field by field; for families that have such.
        measured: what the values were measured on, if they were.
    """

    step_rows: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None
    decode_rows: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    export: Literal["onnx", "safetensors"] | None = None
    defaults: dict[str, JsonValue] = {}
    measured: Measured | None = None

    @property
    def knees(self) -> dict[str, int]:
        """Rows by stage, where they are set."""
        rows = {"step": self.step_rows, "decode": self.decode_rows}
        return {stage: count for stage, count in rows.items() if count is not None}


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
        tuning: by model, what was found to be better on this hardware; see `Tuning`.
        queue_seconds: the most predicted device time of accepted work.
        max_loaded: models held at once; the least recently used idle one leaves first.
        max_ongoing_requests: requests that a replica holds; it queues them itself.
        routing: which replica of a pool apart a request goes to: the one of least queued device
            time (``device_seconds``), or that of two which answers fewer requests
            (``ongoing_requests``, Ray Serve's own).
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
    tuning: dict[ModelId, Tuning] = {}
    queue_seconds: Annotated[float, Field(gt=0)] = 30.0
    max_loaded: Annotated[int, Field(ge=1)] = 64
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 4096
    routing: Literal["device_seconds", "ongoing_requests"] = "device_seconds"
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

    @property
    def may_sleep(self) -> bool:
        """Whether it may have no replica."""
        return self.autoscaling is not None and self.autoscaling.min_replicas == 0

    @model_validator(mode="after")
    def _tunes_its_own(self) -> Pool:
        strange = sorted(set(self.tuning) - set(self.models))
        if strange and not self.takes_the_rest:
            raise ValueError(
                f"pool '{self.name}' tunes {', '.join(strange)}, which it does not serve; it "
                f"serves {', '.join(self.models)}"
            )
        return self


class Deployment(_Strict):
    """Arguments of the application; see ``deploy/serve.yaml``.

    ``gateway`` holds the fields of `services.gateway.settings.GatewaySettings`; ``store`` is the
    folder of the user's own models, or a URL that fsspec opens, such as ``s3://bucket/models`` (the
    platform's data directory by default). ``metrics_folder``
    is where processes share their series, when there are several; a temporary one by default.
    ``gateway_num_cpus`` is what each replica of the gateway asks Ray for beside what its fused
    pools do. On several nodes it is to be more than 0: Ray may put what asks for nothing all on one
    node, and on a head that has no CPU to give.
    """

    gateway: dict[str, Any] = {}
    gateway_replicas: Annotated[int, Field(ge=1)] = 1
    gateway_num_cpus: Annotated[float, Field(ge=0)] = 0
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
        for pool in self.pools:
            served = sorted(set(pool.tuning) & self.claimed_elsewhere(pool))
            if served:
                raise ValueError(
                    f"pool '{pool.name}' tunes {', '.join(served)}, which another pool serves"
                )
        return self

    def claimed_elsewhere(self, pool: Pool) -> frozenset[str]:
        """Models that other pools name."""
        others = (p for p in self.pools if p.name != pool.name)
        return frozenset(m for p in others for m in p.models if m != EVERY_MODEL)
