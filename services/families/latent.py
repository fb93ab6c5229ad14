"""What families with one latent per image share: drawing, reading, walking between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from services.core.errors import InvalidManifest, InvalidParameter
from services.core.job import Call, Job
from services.core.network import Network
from services.core.parameters import Latents, Parameters, Seed
from services.core.pixels import bin_centers, require_finite
from services.core.validation import explain
from services.sampling.interpolation import lerp, slerp

MAX_IMAGES = 64
MAX_FRAMES = 64

Count = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="How many images to make.")]
Temperature = Annotated[
    float, Field(gt=0, le=2, description="Scale of the noise that the latent is drawn from.")
]


class LatentSpec(BaseModel):
    """The shape of one image's latent, without the batch dimension."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=4)]


def latent_limits(declared: LatentSpec | None) -> dict[str, Any]:
    """What a model says of its latents where its manifest declares them: ``latent_shape``."""
    return {} if declared is None else {"latent_shape": declared.shape}


class Options(BaseModel):
    """Base of the options that a family reads from a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, model_id: str, values: Any) -> Self:
        """Check a manifest's options.

        Raises:
            InvalidManifest: a field is missing, unknown or out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            reason = explain(error, allowed=cls.model_fields).message
            raise InvalidManifest(f"options of '{model_id}': {reason}") from error


class FromPrior(Parameters):
    """Base of ``generate``: images for draws from the prior, or for given ``latents``."""

    n: Count = 1
    temperature: Temperature = 1.0
    latents: Latents | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class PerImage(Parameters):
    """Base of what is asked of each image by itself."""

    images_needed: ClassVar[tuple[int, int]] = (1, MAX_IMAGES)
    row_per_image: ClassVar[bool] = True


class Frames(Parameters):
    """Base of ``interpolate``: n images on the way from one latent to another.

    The ends are two ``seeds``, two ``latents``, or two images where the model can encode them.
    """

    n: Annotated[int, Field(ge=2, le=MAX_FRAMES, description="Images, both ends included.")] = 8
    seeds: Annotated[list[Seed], Field(min_length=2, max_length=2)] | None = None
    latents: Annotated[list[Latents], Field(min_length=2, max_length=2)] | None = None
    spherical: Annotated[
        bool, Field(description="Along the great circle, not the straight line.")
    ] = True

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.seeds is not None and self.latents is not None:
            raise ValueError("give either seeds or latents")
        return self

    def rows(self, images: int) -> int:  # noqa: ARG002 - the frames do not depend on the images
        """One row per frame."""
        return self.n

    def fraction(self, index: int) -> float:
        """How far along the way a frame stands."""
        return index / (self.n - 1)

    def end_seeds(self) -> tuple[int, int]:
        """The seeds of both ends when neither latents nor images were given."""
        if self.seeds is None:
            return self.seed, self.seed + 1
        return self.seeds[0], self.seeds[1]

    def between(self, start: Tensor, end: Tensor, index: int) -> Tensor:
        """The latent of one frame."""
        path = slerp if self.spherical else lerp
        return path(start, end, self.fraction(index))


class FramesFromImages(Frames):
    """``interpolate`` for a model that can encode images."""

    images_needed: ClassVar[tuple[int, int]] = (0, 2)


def check_frames(call: Call, parameters: Frames) -> None:
    """Refuse a single image, and images together with another source of both ends.

    Raises:
        InvalidParameter: says what would be right.
    """
    if len(call.images) == 1:
        raise InvalidParameter("interpolate takes two images, got 1", param="images")
    if call.images and (parameters.seeds is not None or parameters.latents is not None):
        raise InvalidParameter("give either two images, or seeds, or latents", param="images")


def generator(seed: int) -> torch.Generator:
    """A trajectory's own source of noise, on the CPU."""
    return torch.Generator().manual_seed(seed)


def latent_from(latents: Latents, shape: Sequence[int]) -> Tensor:
    """A latent that the client sent.

    Raises:
        InvalidParameter: wrong shape, or not finite numbers.
    """
    try:
        values = torch.from_numpy(latents.array().copy())
    except ValueError as error:
        raise InvalidParameter(str(error), param="latents") from error
    if values.dim() == len(shape) + 1 and values.shape[0] == 1:
        values = values[0]
    if list(values.shape) != list(shape):
        raise InvalidParameter(
            f"latents have shape {list(values.shape)}; this model takes {list(shape)}",
            param="latents",
        )
    return values


def drawn(parameters: FromPrior, shape: Sequence[int], source: torch.Generator) -> Tensor:
    """The latent of one image: the client's own, or a draw from the prior."""
    if parameters.latents is not None:
        return latent_from(parameters.latents, shape)
    return parameters.temperature * torch.randn(tuple(shape), generator=source)


def ends(
    parameters: Frames,
    shape: Sequence[int],
    draw: Callable[[int], Tensor],
    encoded: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Both ends of an interpolation.

    Args:
        parameters: what was asked.
        shape: the latent's shape.
        draw: the latent of a seed.
        encoded: the latents of the images that came with the request; empty or two.
    """
    if encoded:
        return encoded[0], encoded[1]
    if parameters.latents is not None:
        start, end = parameters.latents
        return latent_from(start, shape), latent_from(end, shape)
    start_seed, end_seed = parameters.end_seeds()
    return draw(start_seed), draw(end_seed)


def unique_images(jobs: Sequence[Job[Any]]) -> dict[int, int]:
    """Distinct images of a batch of jobs, by identity, to their places in one encoder batch.

    All rows of a call share its image arrays, so an image is encoded once per call.
    """
    places: dict[int, int] = {}
    for job in jobs:
        for image in job.images:
            places.setdefault(id(image), len(places))
    return places


def exact_latents(
    jobs: Sequence[Job[Any]],
    network: Network,
    pixel_range: tuple[float, float],
    device: torch.device,
) -> dict[int, Tensor]:
    """``z`` of a batch's distinct images, each pixel in the middle of its bin, by their identity.

    Args:
        jobs: may have no images.
        network: takes ``x`` and gives ``z``.
        pixel_range: of ``x``.
        device: of the network.
    """
    places = unique_images(jobs)
    if not places:
        return {}
    by_id = {id(image): image for job in jobs for image in job.images}
    x = bin_centers([by_id[key] for key in places], pixel_range)
    z = network(x=x.to(device))["z"].cpu()
    require_finite(z)
    return {key: z[i] for key, i in places.items()}
