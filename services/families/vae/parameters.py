"""What can be asked of a VAE."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.families.latent import Frames, FramesFromImages, FromPrior, PerImage

MAX_SAMPLES = 1024


class Generate(FromPrior):
    """Parameters of ``generate``: decode draws from the prior."""


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate``."""


class InterpolateSeeds(Frames):
    """Parameters of ``interpolate`` for a decoder alone."""


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: encode and decode again."""

    sample: Annotated[
        bool, Field(description="Decode a draw from the posterior instead of its mean.")
    ] = False


class Encode(PerImage):
    """Parameters of ``encode``: the posterior's mean and log variance."""


class Likelihood(PerImage):
    """Parameters of ``likelihood``: the importance-weighted bound of K samples."""

    samples: Annotated[
        int,
        Field(ge=1, le=MAX_SAMPLES, description="Draws from the posterior, K; more are tighter."),
    ] = 64
