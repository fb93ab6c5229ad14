"""The timetable of a GAN that grows, and what both players see while a resolution fades in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from model_store.architectures.equalized import EqualizedConvolution
from model_store.architectures.progan import SIDES, ProgressiveGenerator, faded


class Moment(NamedTuple):
    """Where the growth stands.

    Attributes:
        stage: index into `SIDES` of the finest resolution that is trained.
        alpha: how much of it has faded in, in [0, 1].
    """

    stage: int
    alpha: float


class Period(NamedTuple):
    """A share of the training: until when it lasts, at which stage, and whether that fades in."""

    until: float
    stage: int
    fading: bool


TIMETABLE = (
    Period(0.25, 0, fading=False),
    Period(0.35, 1, fading=True),
    Period(0.50, 1, fading=False),
    Period(0.62, 2, fading=True),
    Period(1.00, 2, fading=False),
)
"""Coarse images are cheap: a quarter of the time at 8x8 is most of the steps."""


def moment(progress: float, timetable: Sequence[Period] = TIMETABLE) -> Moment:
    """Where the growth stands when a share ``progress`` in [0, 1] of the time is spent."""
    begun = 0.0
    for period in timetable:
        if progress < period.until:
            share = (progress - begun) / (period.until - begun)
            return Moment(period.stage, share if period.fading else 1.0)
        begun = period.until
    return Moment(timetable[-1].stage, 1.0)


def real_at(images: Tensor, at: Moment) -> Tensor:
    """Real images as they are at a moment: shrunk to its side, and as far faded in (figure 2).

    Args:
        images: ``[n, 3, s, s]`` with ``s`` the last of `SIDES`.
        at: the moment.
    """
    side = SIDES[at.stage]
    shrunk = functional.avg_pool2d(images, SIDES[-1] // side) if side < SIDES[-1] else images
    if at.alpha == 1.0:
        return shrunk
    return faded(functional.avg_pool2d(shrunk, 2), shrunk, at.alpha)


def made_at(generator: ProgressiveGenerator, z: Tensor, at: Moment) -> Tensor:
    """What the generator makes of noise ``[n, latent]`` at a moment."""
    found = generator.images(z, at.stage + 1)
    if at.alpha == 1.0:
        return found[-1]
    return faded(found[-2], found[-1], at.alpha)


@torch.no_grad()
def follow(generator: ProgressiveGenerator, z: Tensor) -> None:
    """Fit the output layers of the coarser resolutions to the finest images, shrunk.

    Growth leaves them behind: they were last trained when their resolution was the finest, and the
    features that they read have moved on since. Each is linear in them, so that least squares give
    the best it can be.

    Args:
        generator: of final weights; its coarser output layers are replaced.
        z: noise ``[n, latent]`` to fit with.
    """
    features = generator.features(z)
    finest = generator.to_rgb[-1](features[-1]).clamp(-1, 1)
    for side, h, output in zip(SIDES[:-1], features, generator.to_rgb, strict=False):
        layer = cast(EqualizedConvolution, output)
        wanted = functional.avg_pool2d(finest, SIDES[-1] // side)
        ones = torch.ones_like(h[:, :1])
        rows = torch.cat([h, ones], dim=1).movedim(1, -1).flatten(0, 2).double()
        target = wanted.movedim(1, -1).flatten(0, 2).double()
        found = torch.linalg.lstsq(rows, target).solution.float()
        layer.weight.copy_((found[:-1].T / layer.scale)[:, :, None, None])
        layer.bias.copy_(found[-1])
