"""What can be asked of a diffusion model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from services.core.parameters import Latents, Parameters, Seed
from services.families.diffusion.adapter_fields import Adapted
from services.families.latent import Count, Frames, PerImage
from services.sampling.samplers import SamplerName
from services.sampling.sigma_schedules import SigmaSchedule

MAX_PROMPT = 2000
MAX_PROMPTS = 8
MAX_BOUND_STEPS = 1000
MAX_BOUND_SAMPLES = 64
MAX_PROBES = 64

Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT)]
Factors = Annotated[
    dict[str, str] | None,
    Field(description="The prompt as named factors, in place of a sentence."),
]
Margin = Annotated[
    int, Field(ge=0, le=65536, description="Pixels of the answer made anew on this side.")
]
Label = Annotated[
    int | Annotated[str, StringConstraints(max_length=200)] | None,
    Field(description="For models of labels: one of them, by name or index; none if absent."),
]


def _begins_before_it_ends(interval: list[float]) -> list[float]:
    if interval[0] >= interval[1]:
        raise ValueError("the start must lie before the end")
    return interval


GuidanceInterval = Annotated[
    list[Annotated[float, Field(ge=0, le=1)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_begins_before_it_ends),
]
"""Where on the way from noise to image, as shares of it, guidance is on."""


class Conditioned(Parameters):
    """Base of everything that can be told what the image shows."""

    prompt: Annotated[
        Prompt,
        Field(
            description="Any text, also none. One that is longer than the model reads is refused, "
            "not cut off. What a model's tokenizer does not know, such as control characters, it "
            "passes over or reads as an unknown word."
        ),
    ] = ""
    factors: Factors = None
    label: Label = None


class WeightedPrompt(BaseModel):
    """One of several prompts that are composed; a negative weight leads away from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Prompt
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0


class Guided(Conditioned):
    """Base of everything that classifier-free guidance applies to.

    With ``u`` for the unguided output and ``c`` for the prompt's, guidance makes
    ``u + guidance_scale (c - u)``; of several prompts, ``c`` is ``u + sum weight_i (c_i - u)``.
    """

    negative_prompt: Annotated[
        Prompt, Field(description="What guidance leads away from, in place of no prompt at all.")
    ] = ""
    prompts: (
        Annotated[
            list[WeightedPrompt],
            Field(
                min_length=1,
                max_length=MAX_PROMPTS,
                description="In place of prompt: several that are composed by weight, each at the "
                "cost of a branch. Where the weights sum to 1, scale 1 needs no unguided branch.",
            ),
        ]
        | None
    ) = None
    guidance_scale: (
        Annotated[
            float,
            Field(ge=0, le=50, description="1: no guidance, at half the cost of any other scale."),
        ]
        | None
    ) = None
    classifier_scale: (
        Annotated[
            float,
            Field(
                ge=0,
                le=100,
                description="For models with a classifier: how strongly label is aimed at; the "
                "model's own unless given, 0: not at all. Its gradient costs about another branch.",
            ),
        ]
        | None
    ) = None
    guidance_interval: (
        Annotated[
            GuidanceInterval,
            Field(
                description="[start, end] as shares of the way from noise to image; outside of it "
                "the scale is 1, at half the cost. Where a model has a default, null asks for the "
                "whole way.",
            ),
        ]
        | None
    ) = None
    guidance_rescale: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How much of the contrast that guidance adds is taken back; 0.7 is usual.",
        ),
    ] = 0.0
    adaptive_guidance: (
        Annotated[
            float,
            Field(
                ge=-1,
                le=1,
                description="Once the cosine similarity of the guided and the unguided branch "
                "exceeds this, the scale is 1 for the rest of the way, at half the cost.",
            ),
        ]
        | None
    ) = None
    dynamic_threshold: (
        Annotated[
            float,
            Field(
                gt=0,
                le=1,
                description="For models of pixels: where this share of them (0.995 is usual) does "
                "not stay in the image's range, all are drawn back into it, at every step.",
            ),
        ]
        | None
    ) = None


class Sampled(Guided, Adapted):
    """Base of everything that runs a sampler from noise to an image."""

    steps: Annotated[int, Field(ge=1, le=1000, description="Steps of the sampler.")] | None = None
    sampler: SamplerName | None = None
    sigma_schedule: (
        Annotated[
            SigmaSchedule,
            Field(
                description="Noise levels to visit in place of the sampler's own. Where a model "
                "has a default, null asks for the sampler's own."
            ),
        ]
        | None
    ) = None
    step_cache: (
        Annotated[
            float,
            Field(
                gt=0,
                le=1,
                description="For transformers that run on torch: where the first block's addition "
                "changed by less than this share since the last whole evaluation, the other blocks "
                "are left out and add what they added then. 0.1 is usual; faster, and not exact.",
            ),
        ]
        | None
    ) = None


class Generate(Sampled):
    """Parameters of ``generate``. ``latents`` takes the place of the first noise.

    With ``variation_seed`` the images are variations of one: all start from the noise of ``seed``,
    moved on the great circle by ``variation_strength`` towards the noise of another seed, which is
    ``variation_seed + i`` for the image of index i.
    """

    n: Count = 1
    latents: Latents | None = None
    variation_seed: Seed | None = None
    variation_strength: (
        Annotated[
            float,
            Field(
                ge=0,
                le=1,
                description="0: the image of seed; 1: that of variation_seed, as far as the first "
                "noise decides it.",
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _varied_by_both(self) -> Self:
        if (self.variation_seed is None) != (self.variation_strength is None):
            raise ValueError("variation_seed and variation_strength are given together")
        return self

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class Variation(Sampled):
    """Parameters of ``variation`` (SDEdit; Meng et al., 2021)."""

    images_needed: ClassVar[tuple[int, int]] = (1, 1)

    n: Count = 1
    strength: Annotated[
        float,
        Field(gt=0, le=1, description="How much of the way to noise the image is taken first."),
    ] = 0.6

    def rows(self, images: int) -> int:  # noqa: ARG002 - every row starts from the same image
        """One row per image to make."""
        return self.n


class Inpaint(Variation):
    """Parameters of ``inpaint``: as `Variation`, but only what the mask marks is made anew."""

    takes_mask: ClassVar[bool] = True

    strength: Annotated[float, Field(gt=0, le=1)] = 1.0


class Outpaint(Inpaint):
    """Parameters of ``outpaint``: what surrounds the image is made.

    ``keep``: the answer has the model's own size. The image is scaled into the box that the margins
    leave and kept there to the pixel; what the margins cover is made anew. Margins in the
    proportions of the image keep its own; others stretch it. ``grow``: the image, in the model's
    own size, is kept as it is, and the answer is larger by the margins. The network sees it in
    overlapping windows, each of which costs as much as an image.
    """

    takes_mask: ClassVar[bool] = False

    left: Margin = 0
    top: Margin = 0
    right: Margin = 0
    bottom: Margin = 0
    canvas: Annotated[
        Literal["keep", "grow"],
        Field(
            description="keep: the answer has the model's own size, the image is scaled to leave "
            "room. grow: the answer is larger by the margins."
        ),
    ] = "keep"


class Invert(Sampled):
    """Parameters of ``invert``: the image is carried to noise and back under another prompt.

    DDIM inversion (Song et al., 2020, section 4.3) under ``source_prompt``, without guidance, then
    ``sampler`` under ``prompt``, with guidance. What both prompts share is kept as far as the
    inversion is exact, which takes many steps. Each step costs two evaluations, one each way.
    """

    images_needed: ClassVar[tuple[int, int]] = (1, 1)

    source_prompt: Annotated[Prompt, Field(description="What the given image shows.")] = ""
    sampler: Annotated[SamplerName, Field(description="One that adds no fresh noise.")] = "ddim"
    strength: Annotated[
        float, Field(gt=0, le=1, description="How much of the way to noise the image is carried.")
    ] = 1.0


class Interpolate(Sampled, Frames):
    """Parameters of ``interpolate``: images from noise between two seeds or two latents."""

    end_prompt: (
        Annotated[
            Prompt,
            Field(
                description="The prompt at the end of the way, where prompt is the one at its "
                "start; for models that read a prompt as numbers between which there are others."
            ),
        ]
        | None
    ) = None


class Likelihood(Conditioned, PerImage):
    """Parameters of ``likelihood``.

    ``bound``: the variational bound, below the model's log-likelihood. ``ode``: an estimate along
    the probability-flow ODE, whose error goes both ways: the density of the denoiser's space is
    estimated, not bounded. What turns that density into one of 8-bit pixels (the posterior of the
    encoder, the least noise of the schedule) is the bound's own and lies below.
    """

    method: Annotated[
        Literal["bound", "ode"],
        Field(description="bound: the variational bound. ode: an estimate by solving an ODE."),
    ] = "bound"
    steps: Annotated[
        int,
        Field(
            ge=2,
            le=MAX_BOUND_STEPS,
            description="Terms of the bound, more are tighter; or steps of the ODE solver rk4, "
            "each of four evaluations.",
        ),
    ] = 32
    samples: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_BOUND_SAMPLES,
            description="Method bound: independent estimates that are averaged.",
        ),
    ] = 4
    probes: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_PROBES,
            description="Method ode: independent estimates that are averaged, each with its own "
            "noise and its own probe of the divergence.",
        ),
    ] = 8
    solver: Annotated[
        Literal["rk4", "dopri5"],
        Field(description="Method ode: fixed steps, or steps chosen by their error."),
    ] = "rk4"
    tolerance: Annotated[
        float, Field(ge=1e-6, le=0.1, description="Solver dopri5: relative error of a step.")
    ] = 1e-3

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        """Refuse what the chosen method or solver would pass over in silence."""
        given = self.model_fields_set
        if self.method == "bound":
            unused = given & {"probes", "solver", "tolerance"}
            reason = "belongs to method 'ode'"
        elif self.solver == "rk4":
            unused, reason = given & {"samples", "tolerance"}, "has no part in the ODE solver rk4"
        else:
            unused, reason = given & {"samples", "steps"}, "has no part in the ODE solver dopri5"
        if unused:
            raise ValueError(f"{sorted(unused)[0]} {reason}")
        return self


class Encode(Conditioned, PerImage):
    """Parameters of ``encode``: the noise that the deterministic sampler would start from."""

    steps: Annotated[int, Field(ge=2, le=1000)] = 50
