"""What can be asked of a diffusion model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from services.core.parameters import Latents, Parameters
from services.families.latent import Count, Frames, PerImage

MAX_PROMPT = 2000
MAX_BOUND_STEPS = 1000
MAX_BOUND_SAMPLES = 64

Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT)]
Factors = Annotated[
    dict[str, str] | None,
    Field(description="The prompt as named factors, in place of a sentence."),
]
SamplerName = Literal["ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m"]


class Conditioned(Parameters):
    """Base of everything that can be told what the image shows."""

    prompt: Prompt = ""
    factors: Factors = None


class Sampled(Conditioned):
    """Base of everything that runs a sampler from noise to an image."""

    negative_prompt: Annotated[
        Prompt, Field(description="What guidance leads away from, in place of no prompt at all.")
    ] = ""
    steps: Annotated[int, Field(ge=1, le=1000, description="Steps of the sampler.")] | None = None
    sampler: SamplerName | None = None
    guidance_scale: (
        Annotated[
            float,
            Field(ge=0, le=50, description="1: no guidance, at half the cost of any other scale."),
        ]
        | None
    ) = None


class Generate(Sampled):
    """Parameters of ``generate``. ``latents`` takes the place of the first noise."""

    n: Count = 1
    latents: Latents | None = None

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


class Interpolate(Sampled, Frames):
    """Parameters of ``interpolate``: images from noise between two seeds or two latents."""


class Likelihood(Conditioned, PerImage):
    """Parameters of ``likelihood``: the variational bound."""

    steps: Annotated[
        int, Field(ge=2, le=MAX_BOUND_STEPS, description="Terms of the bound; more are tighter.")
    ] = 32
    samples: Annotated[
        int,
        Field(ge=1, le=MAX_BOUND_SAMPLES, description="Independent estimates that are averaged."),
    ] = 4


class Encode(Conditioned, PerImage):
    """Parameters of ``encode``: the noise that the deterministic sampler would start from."""

    steps: Annotated[int, Field(ge=2, le=1000)] = 50
