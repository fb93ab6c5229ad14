"""Where each row begins: its latents found, mapped to styles, and what was asked done to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from services.core.job import Job
from services.core.parameters import Latents
from services.families.latent import generator
from services.families.stylegan.generator import Generator, Look
from services.families.stylegan.parameters import (
    Edited,
    Interpolate,
    Styled,
    StyleMix,
    Traverse,
)
from services.families.stylegan.places import Place, Spaces

Finish = Callable[[Sequence[Place]], Tensor]


@dataclass(frozen=True, slots=True)
class Beginning:
    """A row before the mapping network.

    Attributes:
        places: those of z are mapped to w.
        finish: what the mapped places come to, ``[layers, D]`` of w+ or ``[S]`` of s.
        noise: ``[noise_size]``.
    """

    places: Sequence[Place]
    finish: Finish
    noise: Tensor


def looks(
    jobs: Sequence[Job[Any]], spaces: Spaces, networks: Generator, encoded: Mapping[int, Tensor]
) -> list[Look]:
    """What decides each row's image. All rows' mappings are one evaluation.

    Args:
        jobs: of any operation that makes images at once.
        spaces: of the model.
        networks: of the model.
        encoded: ``[layers, D]`` of the jobs' images, by the image's identity.
    """
    begun = [_begun(job, spaces, encoded) for job in jobs]
    mapped = networks.mapped([place for one in begun for place in one.places])
    bounds = pairwise(accumulate((len(one.places) for one in begun), initial=0))
    return [
        Look(one.finish(mapped[first:last]), one.noise, getattr(job.parameters, "channels", {}))
        for job, one, (first, last) in zip(jobs, begun, bounds, strict=True)
    ]


def latents_of(parameters: Any) -> Sequence[Latents]:
    """The latents that came with a request: none, one, or both ends of something."""
    given = getattr(parameters, "latents", None)
    if given is None:
        return ()
    return given if isinstance(given, list) else (given,)


def _begun(job: Job[Any], spaces: Spaces, encoded: Mapping[int, Tensor]) -> Beginning:
    """One row: an image's latents, or those that were sent, or draws by its seeds.

    A seed draws z and then noise, whether z is used or not: to name one changes not the other.
    """
    parameters = job.parameters
    sources = [generator(seed) for seed in _seeds(job)]
    drawn = [Place("z", torch.randn(spaces.shapes["z"], generator=one)) for one in sources]
    noise = torch.randn(spaces.options.noise_size, generator=sources[0])
    given = [Place("w+", encoded[id(image)]) for image in job.images]
    given += [spaces.read(latents, parameters.latent_space) for latents in latents_of(parameters)]
    strength = getattr(parameters, "noise_strength", None)
    if strength is None:
        strength = 0.0 if given else 1.0
    places, finish = _asked(job, given or drawn, spaces)
    return Beginning(places, finish, strength * noise)


def _seeds(job: Job[Any]) -> Sequence[int]:
    parameters = job.parameters
    if isinstance(parameters, Interpolate | StyleMix):
        return parameters.end_seeds()
    return (parameters.seed if isinstance(parameters, Traverse) else job.seed,)


def _asked(
    job: Job[Any], places: Sequence[Place], spaces: Spaces
) -> tuple[Sequence[Place], Finish]:
    """An operation: what is mapped for it, and what is done with that."""
    parameters = job.parameters
    psi = parameters.truncation if isinstance(parameters, Styled) else 1.0
    if isinstance(parameters, StyleMix):
        return _mixed(parameters, places, spaces, psi)
    if isinstance(parameters, Interpolate):
        return _between(parameters, job.index, places, spaces, psi)
    if isinstance(parameters, Traverse):
        return _along(parameters, job.index, places, spaces, psi)
    if isinstance(parameters, Edited) and parameters.attributes:
        strengths, layers = parameters.attributes, parameters.layers
        return places, lambda found: spaces.moved(spaces.styles(found[0], psi), strengths, layers)
    return places, lambda found: spaces.styles(found[0], psi)


def _mixed(
    parameters: StyleMix, places: Sequence[Place], spaces: Spaces, psi: float
) -> tuple[Sequence[Place], Finish]:
    """Karras et al., 2019, section 3.1: coarse layers of the first, fine ones of the second."""

    def finish(found: Sequence[Place]) -> Tensor:
        coarse, fine = (spaces.styles(place, psi) for place in found)
        return torch.cat([coarse[: parameters.layer], fine[parameters.layer :]])

    return places, finish


def _between(
    parameters: Interpolate, index: int, places: Sequence[Place], spaces: Spaces, psi: float
) -> tuple[Sequence[Place], Finish]:
    start, end = places
    in_z = parameters.latents is not None or parameters.latent_space == "z"
    if start.space == "z" and in_z:
        on_the_way = parameters.frame(start.value, end.value, index, in_z=True)
        return [Place("z", on_the_way)], lambda found: spaces.styles(found[0], psi)

    def finish(found: Sequence[Place]) -> Tensor:
        first, last = (spaces.styles(place, psi) for place in found)
        return parameters.frame(first, last, index, in_z=False)

    return places, finish


def _along(
    parameters: Traverse, index: int, places: Sequence[Place], spaces: Spaces, psi: float
) -> tuple[Sequence[Place], Finish]:
    (place,) = places
    if parameters.attribute is not None:
        strengths = {parameters.attribute: parameters.strip()[index]}
        layers = parameters.layers
        return places, lambda found: spaces.moved(spaces.styles(found[0], psi), strengths, layers)
    if place.space == "z" and parameters.latent_space in (None, "z"):
        moved = Place("z", parameters.moved(place.value, index))
        return [moved], lambda found: spaces.styles(found[0], psi)

    def finish(found: Sequence[Place]) -> Tensor:
        space, value = found[0].space, found[0].value
        value = value if space == "s" else spaces.truncated(value, psi)
        return spaces.styles(Place(space, parameters.moved(value, index)), 1.0)

    return places, finish
