"""LoRAs and ControlNets of single rows: who may use which, and one evaluation with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from services.core.adaptation import Addition, ScaledLora
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.network import AdaptableNetwork, Adapters, ControlNetwork, Network, OpenedModel
from services.core.pixels import LEVELS
from services.families.diffusion.adapter_fields import AdapterUse, ControlUse

LATE = "adapters "
"""Begins the names of parts that are opened late; a number and the adapters' names follow."""

_IMAGE = "control"


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A ControlNet on the way of one row.

    Attributes:
        network: opened.
        image: ``[3, height, width]`` of the range 0 to 1.
        use: as it was asked for.
    """

    network: ControlNetwork
    image: Tensor
    use: ControlUse

    def heard_at(self, step: int, steps: int) -> bool:
        """Whether an evaluation hears it: one that lies within its share of the way as a whole.

        As diffusers' ControlNet pipelines count it.
        """
        return self.use.start <= step / steps and (step + 1) / steps <= self.use.end


class Attachments:
    """The adapters of one model, as requests name them."""

    def __init__(self, model: OpenedModel) -> None:
        """Open nothing yet."""
        self._model_id, self._adapters = model.id, model.adapters
        self._times = count()

    def check(self, call: Call, parameters: Any) -> None:
        """Refuse what is not registered for the model; opens nothing.

        Raises:
            UnsupportedTask: the model takes no adapters.
            InvalidParameter: a name is not known, or images and controls do not match.
        """
        loras, controls = _loras(parameters), _controls(parameters)
        if len(controls) != len(call.controls):
            raise InvalidParameter(
                f"{len(controls)} controls were named and {len(call.controls)} images given; each "
                "needs one",
                param="control",
            )
        if (loras or controls) and getattr(parameters, "step_cache", None) is not None:
            raise InvalidParameter(
                "step_cache leaves out layers that adapters change; give one or the other",
                param="step_cache",
            )
        if controls and getattr(parameters, "canvas", "keep") != "keep":
            raise InvalidParameter(
                "a control has the size of the model's own images, and a grown canvas is larger; "
                "say canvas keep, or leave control out",
                param="control",
            )
        for lora in loras:
            self._opened("adapters").find(lora.name, "lora", param="adapters")
        for control in controls:
            self._opened("control").find(control.name, "controlnet", param="control")

    def loras(self, parameters: Any) -> tuple[ScaledLora, ...]:
        """The LoRAs of a request, opened unless they are resident; raises as `Adapters.lora`."""
        return tuple(
            ScaledLora(self._opened("adapters").lora(use.name), use.scale)
            for use in _loras(parameters)
        )

    def controls(self, job: Job[Any]) -> tuple[Control, ...]:
        """The ControlNets of a row, opened unless they are resident."""
        return tuple(
            Control(self._opened("control").control(use.name), _unit(pixels), use)
            for use, pixels in zip(_controls(job.parameters), job.controls, strict=True)
        )

    def late_part(self, job: Job[Any]) -> str | None:
        """Names the adapters of a job that have to be read first; see `Engine.late_part`."""
        names = [use.name for use in _loras(job.parameters)]
        names += [use.name for use in _controls(job.parameters)]
        closed = [name for name in names if not self._opened("adapters").resident(name)]
        # A part of one name is opened once, and what was let go has to be opened again.
        return f"{LATE}{next(self._times)} {' '.join(closed)}" if closed else None

    def open_late(self, part: str) -> None:
        """Read them, while others are being worked on."""
        adapters = self._opened("adapters")
        kinds = {info.name: info.kind for info in adapters.listed()}
        for name in part.removeprefix(LATE).split()[1:]:
            if kinds.get(name) == "controlnet":
                adapters.control(name)
            else:
                adapters.lora(name)

    def _opened(self, param: str) -> Adapters:
        if self._adapters is None:
            raise UnsupportedTask(
                f"{self._model_id} takes no adapters; models that were imported from a diffusers "
                "folder do",
                param=param,
            )
        return self._adapters


def rows_of_controls(parameters: Any) -> int:
    """Rows that the controls of a request cost, for each branch of it."""
    return len(_controls(parameters))


def evaluated(
    network: Network,
    inputs: Mapping[str, Tensor],
    loras: Sequence[tuple[ScaledLora, ...]],
    controls: Sequence[Sequence[Control]],
) -> Mapping[str, Tensor]:
    """One evaluation of the denoiser, every row with its own LoRAs and controls.

    Args:
        network: the denoiser.
        inputs: on its device.
        loras: by row.
        controls: by row; those that are heard now.
    """
    if not any(loras) and not any(controls):
        return network(**inputs)
    residuals = _residuals(inputs, controls)
    additions = [Addition(own, residual) for own, residual in zip(loras, residuals, strict=True)]
    return cast(AdaptableNetwork, network).adapted(inputs, additions)


def _residuals(
    inputs: Mapping[str, Tensor], controls: Sequence[Sequence[Control]]
) -> list[Tensor | None]:
    """What each row's controls add up to, in the order that the row names them."""
    found: dict[tuple[int, int], Tensor] = {}
    networks = {id(c.network): c.network for own in controls for c in own}
    for key, network in networks.items():
        places = [
            (row, place)
            for row, own in enumerate(controls)
            for place, control in enumerate(own)
            if id(control.network) == key
        ]
        told = {name: inputs[name] for name in network.inputs if name != _IMAGE}
        rows = {name: value[[row for row, _ in places]] for name, value in told.items()}
        images = torch.stack([controls[row][place].image for row, place in places])
        values = network(**rows, **{_IMAGE: images.to(rows["x"].device)})["residuals"]
        for where, value in zip(places, values, strict=True):
            found[where] = value * controls[where[0]][where[1]].use.scale
    sums: list[Tensor | None] = []
    for row, own in enumerate(controls):
        total: Tensor | None = None
        for place in range(len(own)):
            value = found[row, place]
            total = value if total is None else total + value
        sums.append(total)
    return sums


def _loras(parameters: Any) -> list[AdapterUse]:
    return getattr(parameters, "adapters", None) or []


def _controls(parameters: Any) -> list[ControlUse]:
    return getattr(parameters, "control", None) or []


def _unit(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / (LEVELS - 1))
