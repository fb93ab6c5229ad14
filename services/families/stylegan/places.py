"""Places in a generator's latent spaces: reading them from requests, and moving them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from services.core.errors import InvalidParameter
from services.core.parameters import Latents
from services.families.latent import latent_from
from services.families.stylegan.options import StyleGanOptions
from services.families.stylegan.parameters import Space

SPACES: tuple[Space, ...] = ("z", "w", "w+", "s")


@dataclass(frozen=True, slots=True)
class Place:
    """One image's place in one of the spaces, without a batch dimension."""

    space: Space
    value: Tensor


class Spaces:
    """The four spaces of one model."""

    def __init__(self, options: StyleGanOptions) -> None:
        """Take a model's numbers of layers and channels."""
        self.options = options
        width = len(options.w_mean)
        self.shapes: Mapping[Space, tuple[int, ...]] = {
            "z": tuple(options.latent.shape),
            "w": (width,),
            "w+": (options.layers, width),
            "s": (options.styles,),
        }

    @cached_property
    def mean(self) -> Tensor:
        """The mean of w, float32."""
        return torch.tensor(self.options.w_mean, dtype=torch.float32)

    def read(self, latents: Latents, space: Space | None) -> Place:
        """What a client sent.

        Args:
            latents: of any space.
            space: which one; told by the shape if absent.

        Raises:
            InvalidParameter: they are not finite, or not of the space, or of none.
        """
        if space is None:
            space = self._told_by(latents.shape)
        return Place(space, latent_from(latents, self.shapes[space]))

    def _told_by(self, shape: Sequence[int]) -> Space:
        for known in SPACES:
            if list(shape) in (list(self.shapes[known]), [1, *self.shapes[known]]):
                return known
        offers = ", ".join(f"{list(own)} for {name}" for name, own in self.shapes.items())
        raise InvalidParameter(
            f"latents have shape {list(shape)}; this model takes {offers}", param="latents"
        )

    def truncated(self, w: Tensor, psi: float) -> Tensor:
        """Styles of any rank moved towards the mean; at ``psi`` 1 to the bit what they were.

        Karras et al., 2019, arXiv:1812.04948, appendix B.
        """
        return w if psi == 1.0 else self.mean + psi * (w - self.mean)

    def styles(self, place: Place, psi: float) -> Tensor:
        """What the generator is steered by: ``[layers, D]`` of w+, or ``[S]`` where it is of s.

        Args:
            place: of w, w+ or s; z is mapped before.
            psi: of the truncation; s has none.
        """
        if place.space == "s":
            return place.value
        w = self.truncated(place.value, psi)
        return w if place.space == "w+" else w.expand(self.options.layers, -1)

    def moved(
        self, w: Tensor, strengths: Mapping[str, float], layers: Sequence[int] | None
    ) -> Tensor:
        """Styles moved along attributes, at the layers given or at each attribute's own.

        Args:
            w: ``[layers, D]``; it is left as it is.
            strengths: by name, in the attributes' units.
            layers: first and last, both counted.
        """
        found = w.clone() if strengths else w
        for name, strength in strengths.items():
            attribute = self.options.attribute(name)
            first, last = layers or attribute.layers or (0, self.options.layers - 1)
            direction = torch.tensor(attribute.direction, dtype=torch.float32)
            found[first : last + 1] += strength * attribute.unit * direction
        return found
