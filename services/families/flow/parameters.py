"""What can be asked of a flow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.families.latent import FramesFromImages, FromPrior, PerImage

MAX_SAMPLES = 1024


class Generate(FromPrior):
    """Parameters of ``generate``: the inverse of draws from the base distribution."""


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate``."""


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: through the flow and back, which changes nothing."""


class Encode(PerImage):
    """Parameters of ``encode``: the image's place in the base distribution."""


class Likelihood(PerImage):
    """Parameters of ``likelihood``."""

    samples: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_SAMPLES,
            description="1: the exact density at the centre of each pixel's bin. More: the mean "
            "density over that many uniform draws within the bins, an estimate of the 8-bit "
            "image's probability mass.",
        ),
    ] = 1
