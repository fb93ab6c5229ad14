"""A model whose evaluations are sleeps: what is left of a measurement is queueing and routing.

Several replicas share a machine's cores without slowing one another, as they would on devices of
their own. Everything but the network is the service's own: HTTP, router, admission, the loop, its
cost curve measured at load. ``import_path: loadtests.sleeping:build`` serves it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from ray.serve import Application

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import DocumentNotFound, ModelNotFound
from services.core.images import ImageLimits
from services.core.job import Job
from services.core.model import DocumentKind, ModelInfo
from services.core.network import OpenedModel
from services.core.parameters import Parameters
from services.core.trajectory import Result, Trajectory, Workload
from services.serving import app
from services.serving.call_spans import CallSpans
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.pool_deployment import PoolReplica
from services.serving.process_metrics import PoolMetrics
from services.serving.settings import Pool

MODEL = "sleeping"
KNEE = 4
STEP_SECONDS = 0.05
"""Of an evaluation of up to `KNEE` rows; beyond it, rows add up."""


def step_seconds(rows: int) -> float:
    """What one evaluation takes."""
    return STEP_SECONDS * max(1.0, rows / KNEE)


class Sleep(Parameters):
    """How many images, of how many steps each."""

    n: Annotated[int, Field(ge=1, le=8)] = 1
    steps: Annotated[int, Field(ge=1, le=200)] = 20

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One for each image."""
        return self.n


class SleepingEngine(Engine):
    """Steps that take their time and no core; the image is the first noise."""

    family: ClassVar[str] = "sleeping"

    def read_options(self) -> None:
        """None."""

    def setup(self) -> None:
        """Nothing to open."""

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(conditioning=("none",), likelihood="none")

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {"generate": Sleep}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        return f"a sleeping model cannot {name}"

    def workload(self, job: Job[Any]) -> Workload:
        """As many steps as the job says."""
        return Workload("image", "step", job.parameters.steps)

    def rehearsal(self) -> Sequence[Job[Any]]:
        """One job."""
        return [Job("rehearsal", self.model.id, "generate", Sleep(steps=REHEARSED_STEPS))]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """First states."""
        sources = [torch.Generator().manual_seed(job.seed) for job in jobs]
        return [
            Trajectory(
                job=job, workload=self.workload(job), x=torch.rand(64, generator=s), generator=s
            )
            for job, s in zip(jobs, sources, strict=True)
        ]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Sleep, then move every row on."""
        time.sleep(step_seconds(len(batch)))
        for trajectory in batch:
            trajectory.commit(trajectory.x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Each state as grey levels."""
        levels = [(255 * t.x.numpy()).astype(np.uint8).reshape(1, 8, 8) for t in batch]
        return [Result(level) for level in levels]


class SleepingSource:
    """A store that holds the one model."""

    def names(self) -> Sequence[str]:
        """See `services.core.source.ModelSource`."""
        return [MODEL]

    def fingerprint(self, name: str) -> str:
        """It never changes."""
        if name.partition("@")[0] != MODEL:
            raise ModelNotFound(f"there is no model '{name}' but '{MODEL}'", param="model")
        return "1"

    def document(self, name: str, kind: DocumentKind) -> bytes:
        """It has none."""
        raise DocumentNotFound(f"'{name}' has no {kind}")

    def open(self, name: str, device: torch.device) -> OpenedModel:  # noqa: ARG002 - has but one
        """The model without networks."""
        return OpenedModel(
            id=MODEL,
            family=SleepingEngine.family,
            description="sleeps",
            owned_by="loadtests",
            created=1,
            resolution=(8, 8),
            channels=1,
            pixel_range=(0.0, 1.0),
            networks={},
            options={},
            card={},
        )


class SleepingReplica(PoolReplica):
    """A replica of a pool, with the sleeping model in the place of the store's."""

    def _open(
        self,
        settings: Pool,
        store: str | None,  # noqa: ARG002 - has a source of its own
        elsewhere: frozenset[str],
        limits: ImageLimits,
        metrics: PoolMetrics,
        spans: CallSpans,
    ) -> InProcessBackend:
        return InProcessBackend(
            SleepingSource(),
            {SleepingEngine.family: SleepingEngine},
            settings=PoolSettings(
                name=settings.name,
                elsewhere=elsewhere,
                preload=tuple(settings.preload),
                queue_seconds=settings.queue_seconds,
            ),
            limits=limits,
            observer=metrics,
            on_load=metrics.loaded,
            spans=spans,
        )


def build(args: dict[str, Any]) -> Application:
    """As `services.serving.app.build`, with `SleepingReplica` in every pool apart."""
    return app.built_of(args, SleepingReplica)
