"""An image that is larger than the network's own: each evaluation sees it in overlapping windows.

MultiDiffusion (Bar-Tal et al., 2023, section 4): the denoised image at a place is the mean of what
all windows over that place find there, weighted (their eq. 5) so that it fades towards the edges
that other windows overlap. One state, one sampler; the network is never asked for another size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from services.core.errors import InvalidParameter
from services.core.images import Pixels
from services.core.job import Job
from services.families.diffusion.flights import Judgement, Sampling
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import Outpaint
from services.families.diffusion.tiling import Tiling

MOST_GROWTH = 4
"""The larger image has at most this many times the area of the model's own."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What is added around an image, in places of the denoised space or in pixels."""

    left: int
    right: int
    top: int
    bottom: int

    def grown(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width with it."""
        return size[0] + self.top + self.bottom, size[1] + self.left + self.right

    def around(self, known: Tensor) -> Tensor:
        """A state ``[c, h, w]`` with its edge repeated outwards."""
        margins = (self.left, self.right, self.top, self.bottom)
        return functional.pad(known[None], margins, mode="replicate")[0]

    def inside(self, image: Pixels, kept: Pixels) -> Pixels:
        """The larger image ``[c, H, W]`` with what was there before put back, to the pixel."""
        _, height, width = kept.shape
        whole = image.copy()
        whole[:, self.top : self.top + height, self.left : self.left + width] = kept
        return whole


def growth_of(parameters: Outpaint) -> Growth:
    """The margins in pixels."""
    return Growth(parameters.left, parameters.right, parameters.top, parameters.bottom)


def grows(job: Job[Any]) -> bool:
    """Whether the answer is larger than the model's own images."""
    return isinstance(job.parameters, Outpaint) and job.parameters.canvas == "grow"


def places_of(
    parameters: Outpaint, resolution: tuple[int, int], options: DiffusionOptions
) -> Growth:
    """The margins in places of the denoised space."""
    down, across = _pixels_per_place(resolution, options)
    by_pixels = growth_of(parameters)
    return Growth(
        by_pixels.left // across,
        by_pixels.right // across,
        by_pixels.top // down,
        by_pixels.bottom // down,
    )


def windows_of(growth: Growth, shape: Sequence[int]) -> Tiling:
    """Where the network looks at a state of ``shape`` that has grown."""
    return Tiling(growth.grown(shape[-2:]), (shape[-2], shape[-1]))


def check_growth(
    parameters: Outpaint, model_id: str, resolution: tuple[int, int], options: DiffusionOptions
) -> None:
    """Refuse what the network cannot make in windows.

    Raises:
        InvalidParameter: says what would be right.
    """
    instead = "; with canvas 'keep' the image is made smaller instead, within the model's own size"
    if options.inpainting == "native":
        raise InvalidParameter(
            f"{model_id} is told the whole image beside its state and sees no part of a larger "
            f"one{instead}",
            param="canvas",
        )
    for name in ("control", "step_cache"):
        if getattr(parameters, name, None) is not None:
            raise InvalidParameter(
                f"{name} belongs to an image of the model's own size{instead}", param=name
            )
    down, across = _pixels_per_place(resolution, options)
    for side, step in (("left", across), ("right", across), ("top", down), ("bottom", down)):
        margin = getattr(parameters, side)
        if margin % step:
            low = margin - margin % step
            raise InvalidParameter(
                f"{side} must be a multiple of {step} with {model_id}, got {margin}; {low} and "
                f"{low + step} are near{instead}",
                param=side,
            )
    height, width = growth_of(parameters).grown(resolution)
    most = MOST_GROWTH * resolution[0] * resolution[1]
    if height * width > most:
        raise InvalidParameter(
            f"the margins make an image of {width} x {height}; {model_id} makes at most {most} "
            f"pixels, {MOST_GROWTH} times its own {resolution[1]} x {resolution[0]}",
            param="left",
        )


def mask_of(job: Job[Any]) -> Pixels:
    """255 where the larger image is made, 0 where it was there before: ``[1, H, W]``."""
    growth, image = growth_of(job.parameters), job.images[0]
    made = np.full((1, *growth.grown(image.shape[-2:])), 255, np.uint8)
    return growth.inside(made, np.zeros((1, *image.shape[-2:]), np.uint8))


def views_of(row: Sampling | Judgement) -> list[Sampling | Judgement]:
    """What the network sees of a row: its windows, or all of it."""
    if not isinstance(row, Sampling) or row.windows is None:
        return [row]
    return [
        replace(row, x=row.windows.cut(row.x, place), windows=None, blend=None)
        for place in range(len(row.windows.places))
    ]


def put_together(
    rows: Sequence[Sampling | Judgement], denoised: Tensor, agreed: Sequence[bool]
) -> tuple[list[Tensor], list[bool]]:
    """The denoised image of every row from those of its windows.

    Args:
        rows: at least one.
        denoised: ``[n, ...]``, of all that `views_of` gives for them.
        agreed: whether the branches of each view agree.

    Returns:
        One for each row, and whether all of its views agree.
    """
    images, verdicts = iter(denoised.unbind(0)), iter(agreed)
    whole, together = [], []
    for row in rows:
        windows = row.windows if isinstance(row, Sampling) else None
        count = 1 if windows is None else len(windows.places)
        parts = _take(images, count)
        whole.append(parts[0] if windows is None else windows.blend(parts))
        together.append(all(_take(verdicts, count)))
    return whole, together


def _take(values: Iterator[Any], count: int) -> list[Any]:
    return list(islice(values, count))


def _pixels_per_place(resolution: tuple[int, int], options: DiffusionOptions) -> tuple[int, int]:
    if options.latent is None:
        return 1, 1
    _, height, width = options.latent.shape
    return resolution[0] // height, resolution[1] // width
