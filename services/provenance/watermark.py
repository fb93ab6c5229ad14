"""Watermarks: what is hidden in the pixels themselves, and survives where metadata is stripped.

A watermark is a plug-in: a class without arguments that implements `Watermark`, named by an entry
point of the group `GROUP` in the package that brings it. One comes with the service.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Final, Protocol

from services.core.errors import InvalidParameter
from services.core.images import Pixels

GROUP: Final = "atelier.watermarks"
BUILT_IN: Final = "spread-spectrum"


@dataclass(frozen=True, slots=True)
class Detection:
    """Whether a watermark was found.

    Attributes:
        found: the verdict.
        false_positive: an upper bound of the probability that an image without the watermark
            scores this high.
    """

    found: bool
    false_positive: float


class Watermark(Protocol):
    """Hides a payload in pixels and looks for it; the same input always gives the same output."""

    def embed(self, pixels: Pixels, payload: bytes) -> Pixels:
        """Uint8 ``[channels, height, width]`` with a payload in it, of the same shape.

        An image too small to bear one comes back as it is.
        """
        ...

    def detect(self, pixels: Pixels, payload: bytes) -> Detection:
        """Whether uint8 ``[channels, height, width]`` bears that payload."""
        ...


def watermark_named(name: str) -> Watermark:
    """The watermark of that name: of an installed package first, else the one built in.

    Raises:
        InvalidParameter: there is none, or it cannot be loaded.
    """
    offered = importlib.metadata.entry_points(group=GROUP)
    if name in offered.names:
        try:
            plugin: Watermark = offered[name].load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise InvalidParameter(
                f"the watermark '{name}' cannot be loaded: {error}", param="watermark"
            ) from error
        return plugin
    if name == BUILT_IN:
        from services.provenance.spread_spectrum import (  # noqa: PLC0415 - scipy takes a while
            SpreadSpectrum,
        )

        return SpreadSpectrum()
    known = sorted({BUILT_IN, *offered.names})
    raise InvalidParameter(
        f"no watermark is called '{name}'; there are: {', '.join(known)}", param="watermark"
    )
