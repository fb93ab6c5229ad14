"""A generator that mixes styles, which no model of the catalog does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from services.core.job import Job
from services.core.network import OpenedModel
from services.core.parameters import Parameters, Seed
from services.core.trajectory import Trajectory
from services.families.gan.engine import GanEngine
from services.families.latent import generator
from tests.tiny_models import tiny_gan


class StyleMix(Parameters):
    """Parameters of ``style_mix``: the first seed's coarse traits, the second's fine ones."""

    seeds: Annotated[list[Seed], Field(min_length=2, max_length=2)]
    coarse: Annotated[int, Field(ge=0, le=4, description="Latents of the first seed.")] = 2
    label: int = 0


class StyleEngine(GanEngine):
    """A GAN whose latent can be put together from two."""

    family: ClassVar[str] = "style"

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {**super().operations(), "style_mix": StyleMix}

    def _start(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Trajectory:
        asked = job.parameters
        if not isinstance(asked, StyleMix):
            return super()._start(job, encoded)
        first, second = (self._draw(generator(seed), 1.0) for seed in asked.seeds)
        return Trajectory(
            job=job,
            workload=self.workload(job),
            x=torch.cat([first[: asked.coarse], second[asked.coarse :]]),
            generator=generator(job.seed),
            condition=self._condition(asked, generator(job.seed)),
        )


def tiny_style() -> OpenedModel:
    """The tiny GAN under the name of a family that mixes styles."""
    return replace(
        tiny_gan(),
        id="tiny-style",
        family="style",
        options={**tiny_gan().options, "latent": {"shape": [4]}},
    )
