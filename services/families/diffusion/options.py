"""What a diffusion model's manifest says beyond its networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.families.diffusion.tokenizer import Vocabulary
from services.families.latent import Options
from services.sampling.denoiser import PredictionType
from services.sampling.schedule import Schedule


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatentSpace(_Strict):
    """The denoiser's space: ``(z - shift) / scale`` of the encoder's z, per channel."""

    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    shift: list[float]
    scale: list[Annotated[float, Field(gt=0)]]


class Defaults(_Strict):
    """Settings of a request that names none."""

    sampler: str = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0, le=50)] = 3.0


class Observation(_Strict):
    """How pixels scatter around the decoder's output; ``scale`` is in 8-bit pixel units."""

    distribution: Literal["discretized_logistic"] = "discretized_logistic"
    scale: Annotated[float, Field(gt=0)]


class DiffusionOptions(Options):
    """Options of a diffusion model's manifest."""

    prediction_type: PredictionType = "epsilon"
    schedule: Schedule
    latent: LatentSpace | None = None
    observation: Observation | None = None
    tokenizer: Vocabulary | None = None
    defaults: Defaults = Defaults()
    reference_log_likelihoods: list[float] | None = None
