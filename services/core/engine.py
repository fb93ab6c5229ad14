"""The contract of a family: what the loop asks of it, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import ValidationError

from services.core import images as codec
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.images import ImageLimits
from services.core.job import Call, Job, Task
from services.core.model import ModelInfo
from services.core.network import OpenedModel
from services.core.parameters import Parameters
from services.core.trajectory import Result, Trajectory
from services.core.validation import explain


class Engine(ABC):
    """Runs one model. Called from one thread at a time.

    A family implements the five abstract methods. `step` and `decode` must be all-or-nothing: a
    call that raises leaves every trajectory as it was, so that the loop can retry row by row.
    """

    family: ClassVar[str]
    tasks: ClassVar[Mapping[str, Task]] = {}
    """Which task each operation belongs to; a task's own name need not be listed."""

    def __init__(self, model: OpenedModel, device: torch.device, limits: ImageLimits) -> None:
        """Take an opened model; raise `InvalidNetwork` where it cannot be one of this family."""
        self.model = model
        self.device = device
        self.limits = limits

    @abstractmethod
    def describe(self) -> ModelInfo:
        """What the model can do, with the JSON schema of each operation."""

    @abstractmethod
    def operations(self) -> Mapping[str, type[Parameters]]:
        """The parameters of every task and operation that this model supports."""

    @abstractmethod
    def refusal(self, name: str) -> str:
        """Why this model cannot do what another could, and what to use instead."""

    @abstractmethod
    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Start trajectories: encode conditions and images, draw noise from each job's seed."""

    @abstractmethod
    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Turn finished trajectories into results."""

    @abstractmethod
    def rehearsal(self) -> Sequence[Job[Any]]:
        """Typical jobs, by which the loop measures at load what a batch costs."""

    def step(self, batch: Sequence[Trajectory]) -> None:
        """ONE network evaluation for the whole batch; families of one evaluation have none."""
        raise NotImplementedError(f"{self.family} has no stepwise trajectories")

    def cost(self, trajectory: Trajectory) -> int:  # noqa: ARG002 - families override
        """Rows that the trajectory takes in a network's batch."""
        return 1

    def steps_of(self, job: Job[Any]) -> tuple[int, int]:  # noqa: ARG002 - families override
        """``(network evaluations, rows in each)`` that a job will take before it is decoded."""
        return 0, 1

    def jobs(self, call: Call, *, deadline: float | None = None) -> list[Job[Any]]:
        """Check a call against the model and split it into one job per row.

        Raises:
            UnsupportedTask: the model cannot do this at all.
            InvalidParameter: a parameter is unknown, missing or out of range.
            InvalidImage, UnsupportedMedia, TooLarge: an image cannot be used.
        """
        kind = self._parameters(call)
        try:
            parameters = kind.model_validate(dict(call.parameters))
        except ValidationError as error:
            raise explain(error, allowed=kind.model_fields) from error
        self.check(call.name, parameters)
        pixels, mask = self._images(call, kind)
        rows = parameters.rows(len(pixels))
        shift = 0 if kind.row_per_image else 1
        return [
            Job(
                id=f"{call.id}/{row}",
                model=self.model.id,
                name=call.name,
                parameters=parameters,
                seed=parameters.seed + shift * row,
                index=row,
                deadline=deadline,
                images=(pixels[row],) if kind.row_per_image else pixels,
                mask=mask,
            )
            for row in range(rows)
        ]

    def check(self, name: str, parameters: Any) -> None:  # noqa: B027 - families may have nothing to add
        """Refuse parameters that fit the schema but not this model."""

    def _parameters(self, call: Call) -> type[Parameters]:
        operations = self.operations()
        if call.task is Task.EDIT and call.operation is None:
            names = [n for n in operations if self.task_of(n) is Task.EDIT]
            raise InvalidParameter(f"'operation' is missing; {self._can(names)}", param="operation")
        if call.name not in operations or self.task_of(call.name) is not call.task:
            raise UnsupportedTask(self.refusal(call.name), param="model")
        return operations[call.name]

    def task_of(self, name: str) -> Task:
        """The task that an operation belongs to."""
        return Task(name) if name in Task.__members__.values() else Task.EDIT

    def _can(self, names: Sequence[str]) -> str:
        return f"{self.model.id} offers {', '.join(names) or 'none'}"

    def _images(
        self, call: Call, kind: type[Parameters]
    ) -> tuple[tuple[codec.Pixels, ...], codec.Pixels | None]:
        fewest, most = kind.images_needed
        if not fewest <= len(call.images) <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise InvalidParameter(
                f"{call.name} takes {wanted} images, got {len(call.images)}", param="images"
            )
        if (call.mask is not None) != kind.takes_mask:
            wish = "needs a mask" if kind.takes_mask else "takes no mask"
            raise InvalidParameter(f"{call.name} {wish}", param="mask")
        resolution, channels = self.model.resolution, self.model.channels
        pixels = tuple(
            codec.decode(data, resolution, channels, self.limits) for data in call.images
        )
        mask = codec.decode_mask(call.mask, resolution, self.limits) if call.mask else None
        return pixels, mask
