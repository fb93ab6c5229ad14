"""What can be asked of an autoregressive model of codes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from services.core.parameters import Latents, Parameters
from services.families.latent import Count, PerImage

MAX_PROMPT = 2000
MAX_TEMPERATURE = 5.0
MAX_TOP_K = 1 << 16
MAX_GUIDANCE = 50.0

Temperature = Annotated[
    float,
    Field(
        gt=0,
        le=MAX_TEMPERATURE,
        description="What logits are divided by before a code is drawn: below 1 the likely codes "
        "become likelier.",
    ),
]
TopK = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_TOP_K,
        description="Draw among so many of the likeliest codes; 0: among all.",
    ),
]
TopP = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Draw among the fewest codes whose probabilities reach this; 1: among all.",
    ),
]
Guidance = Annotated[
    float,
    Field(ge=0, le=MAX_GUIDANCE, description="1: no guidance, at half the cost of any other."),
]


class Told(Parameters):
    """Base of everything that can be told what the image shows."""

    prompt: Annotated[
        str,
        StringConstraints(max_length=MAX_PROMPT),
        Field(description="What the image shows, in the model's own words; none asks for any."),
    ] = ""
    factors: Annotated[
        dict[str, str] | None,
        Field(description="The prompt as named factors, in place of a sentence."),
    ] = None
    label: Annotated[
        int | Annotated[str, StringConstraints(max_length=200)] | None,
        Field(description="For models of labels: one of them, by name or index; none if absent."),
    ] = None

    @property
    def says_nothing(self) -> bool:
        """Whether the model is told nothing at all."""
        return not self.prompt and not self.factors and self.label is None


class Sampled(Told):
    """Base of everything that draws codes; what is not given is the model's own default.

    With ``u`` for the logits without a condition and ``c`` for those with it, guidance makes
    ``u + guidance_scale (c - u)``, to which the temperature, then top-k, then top-p are applied.
    """

    n: Count = 1
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    guidance_scale: Guidance | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - every row sees the same image, if any
        """One row per image to make."""
        return self.n


class Generate(Sampled):
    """Parameters of ``generate``. With ``latents``, codes as ``encode`` gives, none is drawn."""

    latents: Latents | None = None


class Inpaint(Sampled):
    """Parameters of ``inpaint``: codes that the mask touches are drawn, the others are kept.

    Codes are written in order, row by row, so a code sees those above it and to its left, kept or
    drawn, and none that come later. Outside of the mask the answer is the image's own, to the
    pixel.
    """

    images_needed: ClassVar[tuple[int, int]] = (1, 1)
    takes_mask: ClassVar[bool] = True


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: the image of an image's codes."""


class Encode(PerImage):
    """Parameters of ``encode``: the codes of an image, whole numbers from 0."""


class Likelihood(Told, PerImage):
    """Parameters of ``likelihood``: the exact log-likelihood of the image's codes, in nats.

    It is a probability of codes, not of pixels: all images with the same codes share it, and it
    compares with no likelihood of pixels. ``bits_per_dim`` is bits for each code.
    """
