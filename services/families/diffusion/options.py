"""What a diffusion model's manifest says beyond its networks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.core.vocabulary import Vocabulary
from services.families.diffusion.parameters import GuidanceInterval
from services.families.latent import Options
from services.families.likelihood import ReferenceSettings
from services.sampling.denoiser import PredictionType
from services.sampling.samplers import SamplerName, samplers_for, sigma_schedules_for
from services.sampling.schedule import Flow, Schedule, VariancePreserving
from services.sampling.sigma_schedules import SigmaSchedule


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatentSpace(_Strict):
    """The denoiser's space: ``(z - shift) / scale`` of the encoder's z, per channel.

    ``sampled``: an edit begins at a draw from the encoder's posterior, as diffusers' pipelines do,
    instead of at its mean.
    """

    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    shift: list[float]
    scale: list[Annotated[float, Field(gt=0)]]
    sampled: bool = False


class Defaults(_Strict):
    """Settings of a request that names none.

    ``sigma_schedule`` holds for every sampler that takes one. A request that gives
    ``guidance_interval`` as null is guided all the way.
    """

    sampler: SamplerName = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0, le=50)] = 3.0
    guidance_interval: GuidanceInterval | None = None
    sigma_schedule: SigmaSchedule | None = None


class Observation(_Strict):
    """How pixels scatter around the decoder's output; ``scale`` is in 8-bit pixel units."""

    distribution: Literal["discretized_logistic"] = "discretized_logistic"
    scale: Annotated[float, Field(gt=0)]


class PreviewColors(_Strict):
    """Previews as ``weight latent + bias`` in 8-bit pixel units; fitted at load when absent."""

    weight: list[list[float]]
    bias: list[float]


class FromPrompt(_Strict):
    """The model's own prompt encoder speaks to the denoiser.

    ``inputs`` are the denoiser's inputs that it fills. ``embedded_guidance``: the denoiser takes
    the guidance scale as an input and has one branch (Meng et al., 2022). ``unguided_branch`` is
    false for other models that were distilled to one branch.
    """

    type: Literal["prompt"] = "prompt"
    inputs: Annotated[list[str], Field(min_length=1, max_length=8)]
    embedded_guidance: bool = False
    unguided_branch: bool = True


class FromLabel(_Strict):
    """A class label; ``null`` is the class that stands for none."""

    type: Literal["label"] = "label"
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    null: Annotated[int, Field(ge=0)]
    labels: list[str] = []


class ClassifierOptions(_Strict):
    """The network ``classifier`` names these classes of a noisy state, in the logits' order.

    ``scale`` is how strongly a label is aimed at where a request does not say.
    """

    labels: Annotated[list[str], Field(min_length=2, max_length=100_000)]
    scale: Annotated[float, Field(ge=0, le=100)] = 1.0


class DiffusionOptions(Options):
    """Options of a diffusion model's manifest."""

    prediction_type: PredictionType = "epsilon"
    schedule: Schedule
    latent: LatentSpace | None = None
    observation: Observation | None = None
    preview: PreviewColors | None = None
    tokenizer: Vocabulary | None = None
    conditioning: Annotated[FromPrompt | FromLabel, Field(discriminator="type")] | None = None
    classifier: ClassifierOptions | None = None
    clip_sample: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Denoised images are held between minus this and this."
    )
    inpainting: Literal["blended", "native"] = Field(
        default="blended",
        description="blended: what is kept is put back after every step. native: the denoiser "
        "takes `mask` and `masked_image` beside the state, as a UNet of 9 channels does.",
    )
    defaults: Defaults = Defaults()
    reference_log_likelihoods: list[float] | None = None
    reference_corrected_bits_per_dim: list[float] | None = None
    reference_settings: ReferenceSettings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if self.tokenizer is not None and self.conditioning is not None:
            raise ValueError("give either a tokenizer or conditioning")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        schedule, sampler = self.schedule, self.defaults.sampler
        no_signal = None
        if isinstance(schedule, Flow):
            no_signal = "a flow schedule"
        elif isinstance(schedule, VariancePreserving) and schedule.rescale_betas_zero_snr:
            no_signal = "rescale_betas_zero_snr"
        if self.prediction_type in ("epsilon", "score") and no_signal is not None:
            raise ValueError(
                f"prediction_type {self.prediction_type} does not fit {no_signal}, whose first "
                "level has no signal to divide by; use flow, v_prediction or sample"
            )
        fitting = samplers_for(schedule)
        if sampler not in fitting:
            raise ValueError(
                f"the default sampler {sampler} does not fit the schedule; use one of "
                f"{', '.join(fitting)}"
            )
        levels, known = self.defaults.sigma_schedule, sigma_schedules_for(schedule)
        if levels is not None and levels not in known:
            raise ValueError(
                f"the default sigma_schedule {levels} does not fit the schedule; use one of "
                f"{', '.join(known)}"
            )
        return self
