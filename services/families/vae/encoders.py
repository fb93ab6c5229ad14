"""The kinds of encoder, in one shape: what an image is told as, and draws of its latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from services.core.network import Network, OpenedModel
from services.core.pixels import require_finite

Told = Mapping[str, Tensor]
"""What an encoder keeps of a batch of images, from which their latents are drawn."""


class Draw(NamedTuple):
    """Latents of a batch, and the Gaussian that they were drawn from; each ``[n, *latent]``."""

    z: Tensor
    mean: Tensor
    log_variance: Tensor


class Encoder(ABC):
    """One of the networks that a manifest may name; ``name`` is what it calls it."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    outputs: ClassVar[tuple[str, ...]]

    def __init__(self, model: OpenedModel, device: torch.device) -> None:
        """Open the network.

        Raises:
            InvalidNetwork: it is absent, or lacks an input or output.
        """
        self.network: Network = model.network(
            self.name, inputs=list(self.inputs), outputs=list(self.outputs)
        )
        self.device = device

    @abstractmethod
    def read(self, images: Tensor) -> Told:
        """What is kept of images ``[n, channels, height, width]``."""

    @abstractmethod
    def draw(self, told: Told, noise: Tensor) -> Draw:
        """Latents of the images told of.

        Args:
            told: from `read`; rows may be any of its rows, in any order.
            noise: ``[n, *latent]`` from N(0, I); zeros give the mean.
        """

    def _evaluate(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        given = self.network(**{name: value.to(self.device) for name, value in inputs.items()})
        found = tuple(given[name].cpu() for name in self.outputs)
        for values in found:
            require_finite(values)
        return found


class GaussianEncoder(Encoder):
    """``q(z | x)``, a diagonal Gaussian: evaluated once for an image, however often it is drawn."""

    name: ClassVar[str] = "encoder"
    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def read(self, images: Tensor) -> Told:
        """See `Encoder.read`."""
        return dict(zip(self.outputs, self._evaluate(image=images), strict=True))

    def draw(self, told: Told, noise: Tensor) -> Draw:
        """See `Encoder.draw`."""
        mean, log_variance = told["mean"], told["log_variance"]
        return Draw(mean + torch.exp(0.5 * log_variance) * noise, mean, log_variance)


class HierarchicalEncoder(Encoder):
    """``q(z_1 | x) q(z_2 | x, z_1) ...``, level by level from the top: evaluated for each draw.

    Latents are in units of the prior given the levels above, so that the prior is N(0, I) and a
    level's Gaussian is the posterior seen from it.
    """

    name: ClassVar[str] = "hierarchical_encoder"
    inputs: ClassVar[tuple[str, ...]] = ("image", "noise")
    outputs: ClassVar[tuple[str, ...]] = ("z", "mean", "log_variance")

    def read(self, images: Tensor) -> Told:
        """See `Encoder.read`: the images themselves."""
        return {"image": images}

    def draw(self, told: Told, noise: Tensor) -> Draw:
        """See `Encoder.draw`."""
        return Draw(*self._evaluate(image=told["image"], noise=noise))


class DeterministicEncoder(Encoder):
    """One code for an image, and no prior of codes: an autoencoder's."""

    name: ClassVar[str] = "deterministic_encoder"
    outputs: ClassVar[tuple[str, ...]] = ("z",)

    def read(self, images: Tensor) -> Told:
        """See `Encoder.read`."""
        (z,) = self._evaluate(image=images)
        return {"z": z}

    def draw(self, told: Told, noise: Tensor) -> Draw:  # noqa: ARG002 - there is nothing to draw
        """See `Encoder.draw`: the code, which has no spread."""
        return Draw(told["z"], told["z"], torch.full_like(told["z"], -torch.inf))


ENCODERS: Mapping[str, type[Encoder]] = {
    kind.name: kind for kind in (GaussianEncoder, HierarchicalEncoder, DeterministicEncoder)
}
