"""What fits a schema but not the model, or not itself: refused before it waits for a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from services.core.errors import InvalidParameter
from services.core.job import Call
from services.families.latent import check_frames
from services.families.stylegan.parameters import (
    Attribute,
    Interpolate,
    Space,
    Styled,
    StyleMix,
    Traverse,
)
from services.families.stylegan.places import Place, Spaces
from services.families.stylegan.starting import latents_of
from services.families.traversal import check_traversal

OF_IMAGES: tuple[Space, ...] = ("w+",)
OF_SEEDS: tuple[Space, ...] = ("z", "w")


def check(call: Call, parameters: Any, spaces: Spaces) -> None:
    """Refuse what cannot be done.

    Raises:
        InvalidParameter: says what would be right.
    """
    if isinstance(parameters, Interpolate):
        check_frames(call, parameters)
    if isinstance(parameters, Traverse):
        check_traversal(call, parameters)
    if isinstance(parameters, StyleMix):
        _check_mix(call, parameters)
    if isinstance(parameters, Attribute):
        _check_attribute(call, parameters, spaces.options.names)
    named: Space | None = getattr(parameters, "latent_space", None)
    places = [spaces.read(latents, named) for latents in latents_of(parameters)]
    if isinstance(parameters, Interpolate | Traverse):
        space = _space_of(call, named, places)
        if isinstance(parameters, Traverse):
            _check_number(parameters, space, spaces)
    if any(place.space == "s" for place in places):
        _check_styles(parameters)


def _check_mix(call: Call, parameters: StyleMix) -> None:
    if len(call.images) == 1:
        raise InvalidParameter("style_mix takes two images, got 1", param="images")
    if call.images and (parameters.seeds is not None or parameters.latents is not None):
        raise InvalidParameter("give either two images, or seeds, or latents", param="images")


def _check_attribute(call: Call, parameters: Attribute, names: Sequence[str]) -> None:
    if call.images and parameters.latents is not None:
        raise InvalidParameter("give either an image or latents, or neither", param="images")
    if parameters.edits:
        return
    known = f"attributes ({', '.join(names)}) or channels" if names else "channels"
    raise InvalidParameter(
        f"nothing is to be changed; say by how much, in {known}", param="attributes"
    )


def _space_of(call: Call, named: Space | None, places: Sequence[Place]) -> Space | None:
    """The space that a way runs through, or a number is counted in; ``None`` leaves it open.

    Raises:
        InvalidParameter: the ends are of two spaces, or images or seeds are not of the one named.
    """
    found = {place.space for place in places}
    if len(found) > 1:
        raise InvalidParameter(
            f"both latents must be of one space, got {' and '.join(sorted(found))}",
            param="latents",
        )
    if found:
        return found.pop()
    able, what = (OF_IMAGES, "images") if call.images else (OF_SEEDS, "seeds")
    if named not in (None, *able):
        raise InvalidParameter(
            f"{what} can be taken to {' or '.join(able)}, not to {named}; for others give latents",
            param="latent_space",
        )
    return named or ("w+" if call.images else None)


def _check_number(parameters: Traverse, space: Space | None, spaces: Spaces) -> None:
    if parameters.attribute is not None:
        if parameters.attribute not in spaces.options.names:
            raise InvalidParameter("this model has no attributes", param="attribute")
        return
    count = math.prod(spaces.shapes[space or "z"])
    if parameters.latent_index >= count:
        raise InvalidParameter(
            f"latent_index is {parameters.latent_index}; {space or 'z'} of this model has {count} "
            "numbers, counted from 0",
            param="latent_index",
        )


def _check_styles(parameters: Any) -> None:
    """Refuse what is done to w where latents are of s, behind it."""
    if isinstance(parameters, StyleMix):
        raise InvalidParameter("style_mix takes latents of z, w or w+, not of s", param="latents")
    if isinstance(parameters, Styled) and parameters.truncation != 1.0:
        raise InvalidParameter(
            "truncation is done in w; latents of s are behind it: leave it out", param="truncation"
        )
    moved = getattr(parameters, "attributes", None) or getattr(parameters, "attribute", None)
    if moved:
        raise InvalidParameter(
            "attributes are directions of w; latents of s are behind it: change channels, or give "
            "latents of w+",
            param="attributes" if isinstance(parameters, Attribute) else "attribute",
        )
