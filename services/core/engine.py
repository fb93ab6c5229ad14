"""The contract of a family: what the loop asks of it, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from pydantic import ValidationError

from services.core.adapters import AdapterInfo
from services.core.decoder import Decoder
from services.core.errors import InvalidNetwork, InvalidParameter, UnsupportedTask
from services.core.images import ImageLimits, Pixels
from services.core.job import Call, Job, Task
from services.core.model import Conditioning, LikelihoodKind, ModelInfo, ReferenceSet
from services.core.network import OpenedModel, TensorSpec
from services.core.parameters import Parameters, with_defaults
from services.core.trajectory import Result, Trajectory, Workload
from services.core.validation import explain

REHEARSED_STEPS = 8


class Engine(ABC):
    """Runs one model.

    Constructed from the manifest alone, an engine can describe itself and check calls, from any
    thread. After `setup` it can also work, from one thread at a time. `step` and `decode` are
    all-or-nothing: a call that raises leaves every trajectory as it was, so that the loop can retry
    row by row.
    """

    family: ClassVar[str]

    def __init__(self, model: OpenedModel, device: torch.device, limits: ImageLimits) -> None:
        """Take a model; no network is opened yet.

        Raises:
            InvalidManifest: its options are not what the family needs.
        """
        self.model = model
        self.device = device
        self.limits = limits
        self.image_decoder = Decoder(limits)
        """Of uploaded images; whoever serves strangers puts another in its place."""
        self.device_lock: AbstractContextManager[object] = nullcontext()
        """Held during every evaluation on the device: by who calls `prepare`, `step` and `decode`,
        and by `setup` where it evaluates something itself."""
        self.read_options()

    @abstractmethod
    def read_options(self) -> None:
        """Read the family's own options from the manifest; called once, at construction.

        Raises:
            InvalidManifest: a field is missing, unknown or out of range.
        """

    @abstractmethod
    def setup(self) -> None:
        """Open the networks.

        Raises:
            ModelError: a network is absent, not the one that the manifest names, or no fit.
        """

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
    def workload(self, job: Job[Any]) -> Workload:
        """What a job will ask of the device."""

    @abstractmethod
    def rehearsal(self) -> Sequence[Job[Any]]:
        """Typical jobs, one for each kind of workload, by which costs are measured at load.

        Stepwise ones take `REHEARSED_STEPS` evaluations or more.
        """

    def late_part(self, job: Job[Any]) -> str | None:  # noqa: ARG002 - most have none
        """A part that this job needs and that `setup` leaves closed, since few jobs need it."""
        return None

    def open_late(self, part: str) -> Sequence[Job[Any]]:
        """Open a part before the first job that needs it, while others are being worked on.

        Returns:
            What its costs are measured by, as from `rehearsal`.

        Raises:
            ModelError: its networks cannot be opened.
        """
        raise NotImplementedError(f"{self.family} has no part '{part}'; this is a bug")

    def step(self, batch: Sequence[Trajectory]) -> None:
        """ONE network evaluation for the whole batch; families of one evaluation have none."""
        raise NotImplementedError(f"{self.family} has no stepwise trajectories")

    def decode_slice(self, batch: Sequence[Trajectory]) -> None:
        """The next slice of decoding of each finished trajectory, into its `parts`.

        `decode` puts the parts together, and makes those that are missing.
        """
        raise NotImplementedError(f"{self.family} decodes at once")

    def noise_level(self, trajectory: Trajectory) -> float | None:  # noqa: ARG002 - others have one
        """Standard deviation of the noise that is left in a state; ``None`` where there is none."""
        return None

    def adapters(self) -> Sequence[AdapterInfo]:
        """What is registered for this model at this moment, and can be named in requests."""
        return self.model.adapters.listed() if self.model.adapters is not None else ()

    def counts(self) -> Mapping[str, int]:
        """Running totals that are worth a series, by name; they only ever grow."""
        return {}

    def preview(self, trajectory: Trajectory) -> Pixels | None:  # noqa: ARG002 - as above
        """What a trajectory is becoming, small and cheap; ``None`` where nothing can be shown.

        Changes nothing. Made of what the last evaluation already found: no network is evaluated.
        """
        return None

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
        self.check(call, parameters)
        pixels, mask = self._images(call, kind)
        controls = self._controls(call)
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
                controls=controls,
                tenant=call.payer,
                weight=call.weight,
            )
            for row in range(rows)
        ]

    def check(self, call: Call, parameters: Any) -> None:  # noqa: B027 - may have nothing to add
        """Refuse parameters that fit the schema but not this model."""

    def model_info(
        self,
        *,
        conditioning: tuple[Conditioning, ...],
        likelihood: LikelihoodKind,
        labels: tuple[str, ...] = (),
        limits: Mapping[str, Any] | None = None,
        reference: ReferenceSet | None = None,
    ) -> ModelInfo:
        """What the manifest and the operations say, completed by what the family knows.

        Of a model with ``defaults`` among its limits, the schemas show those.
        """
        operations = self.operations()
        tasks = dict.fromkeys(self.task_of(name).value for name in operations)
        defaults = (limits or {}).get("defaults", {})
        return ModelInfo(
            id=self.model.id,
            family=self.model.family,
            created=self.model.created,
            owned_by=self.model.owned_by,
            description=self.model.description,
            tasks=tuple(tasks),
            operations={
                name: with_defaults(kind.described(), defaults) for name, kind in operations.items()
            },
            conditioning=conditioning,
            resolution=self.model.resolution,
            channels=self.model.channels,
            likelihood=likelihood,
            limits={
                "max_image_bytes": self.limits.max_bytes,
                "max_image_pixels": self.limits.max_pixels,
                **(limits or {}),
            },
            labels=labels,
            card=dict(self.model.card),
            reference=reference,
        )

    def latent_shape(self, declared: Sequence[int] | None, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of one latent: what the manifest declares, else what the graph says.

        Raises:
            InvalidNetwork: neither says, or they contradict each other.
        """
        if declared is None:
            if None in spec.shape or not spec.shape:
                raise InvalidNetwork(
                    f"the graph of '{self.model.id}' does not fix the latent's shape "
                    f"{list(spec.shape)}; declare it as options: {{latent: {{shape: [...]}}}}"
                )
            return tuple(side for side in spec.shape if side is not None)
        fits = len(declared) == len(spec.shape) and all(
            side is None or side == wanted
            for side, wanted in zip(spec.shape, declared, strict=True)
        )
        if not fits:
            raise InvalidNetwork(
                f"the manifest of '{self.model.id}' declares a latent of {list(declared)}, "
                f"the graph takes {list(spec.shape)}"
            )
        return tuple(declared)

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
        return Task(name) if name in list(Task) else Task.EDIT

    def _can(self, names: Sequence[str]) -> str:
        return f"{self.model.id} offers {', '.join(names) or 'none'}"

    def _controls(self, call: Call) -> tuple[Pixels, ...]:
        resolution, channels = self.model.resolution, self.model.channels
        return tuple(
            self.image_decoder.image(data, resolution, channels, param="control")
            for data in call.controls
        )

    def _images(
        self, call: Call, kind: type[Parameters]
    ) -> tuple[tuple[Pixels, ...], Pixels | None]:
        self._count_images(call, kind)
        resolution, channels = self.model.resolution, self.model.channels
        pixels = tuple(self.image_decoder.image(data, resolution, channels) for data in call.images)
        mask = self.image_decoder.mask(call.mask, resolution) if call.mask else None
        return pixels, mask

    def _count_images(self, call: Call, kind: type[Parameters]) -> None:
        fewest, most = kind.images_needed
        if not fewest <= len(call.images) <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise InvalidParameter(
                f"{call.name} takes {wanted} images, got {len(call.images)}", param="images"
            )
        if (call.mask is not None) != kind.takes_mask:
            wish = "needs a mask" if kind.takes_mask else "takes no mask"
            raise InvalidParameter(f"{call.name} {wish}", param="mask")
