"""The networks of a style-based generator: noise to style, styles by layer, styles to an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.core.errors import InvalidNetwork
from services.core.images import Pixels
from services.core.network import Network, OpenedModel
from services.core.pixels import require_finite, to_pixels
from services.families.stylegan.options import StyleGanOptions
from services.families.stylegan.places import Place, Spaces

SPREAD_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Look:
    """All that decides one image.

    Attributes:
        x: ``[layers, D]`` of w+, or ``[S]`` of s.
        noise: ``[noise_size]``; zeros for none.
        channels: by index into s, what is added there.
    """

    x: Tensor
    noise: Tensor
    channels: Mapping[int, float] = field(default_factory=dict)


class Generator:
    """Images of places in latent space."""

    def __init__(self, model: OpenedModel, options: StyleGanOptions, device: torch.device) -> None:
        """Take the networks.

        Raises:
            InvalidNetwork: one is absent, or does not fit the options.
        """
        self._range, self._device = model.pixel_range, device
        self._latent = options.latent.shape
        self.noise_size = options.noise_size
        inputs = ["s", "noise"] if options.noise_size else ["s"]
        self.mapping: Network = model.network("mapping", inputs=["z"], outputs=["w"])
        self.styles: Network = model.network("styles", inputs=["w"], outputs=["s"])
        self.synthesis: Network = model.network("synthesis", inputs=inputs, outputs=["image"])
        self._refuse_misfit(model, Spaces(options))

    def mapped(self, places: Sequence[Place]) -> list[Place]:
        """Places of z as places of w, all of them in one evaluation; others as they are."""
        drawn = [place.value for place in places if place.space == "z"]
        if not drawn:
            return list(places)
        found = self.mapping(z=torch.stack(drawn).to(self._device))["w"].cpu()
        require_finite(found)
        w = iter(found)
        return [Place("w", next(w)) if place.space == "z" else place for place in places]

    def spread_of_w(self) -> float:
        """The standard deviation of w, over fixed draws of z and over its numbers."""
        source = torch.Generator().manual_seed(0)
        z = torch.randn(SPREAD_SAMPLES, *self._latent, generator=source)
        w = self.mapping(z=z.to(self._device))["w"].cpu()
        require_finite(w)
        return float(w.double().std(dim=0).square().mean().sqrt())

    def styled(self, w: Sequence[Tensor]) -> Tensor:
        """Styles s ``[n, S]`` of rows of w+, on the CPU."""
        found = self.styles(w=torch.stack(list(w)).to(self._device))["s"].cpu()
        require_finite(found)
        return found

    def images(self, styles: Tensor, noise: Tensor) -> Tensor:
        """Images of styles ``[n, S]`` and noise ``[n, noise_size]``, on the CPU.

        Raises:
            EngineFailure: a value is not finite.
        """
        found = self.synthesis(**self.inputs(styles, noise))["image"].cpu()
        require_finite(found)
        return found

    def inputs(self, styles: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """What the synthesis is given, on its device."""
        told = {"s": styles.to(self._device)}
        return told | ({"noise": noise.to(self._device)} if self.noise_size else {})

    def render(self, looks: Sequence[Look]) -> list[Pixels]:
        """The images of a batch, wherever in latent space each row is."""
        layered = [look.x for look in looks if look.x.dim() > 1]
        styled = iter(self.styled(layered)) if layered else iter(())
        rows = []
        for look in looks:
            row = (next(styled) if look.x.dim() > 1 else look.x).clone()
            for index, delta in look.channels.items():
                row[index] += delta
            rows.append(row)
        noise = torch.stack([look.noise for look in looks])
        return to_pixels(self.images(torch.stack(rows), noise), self._range)

    def _refuse_misfit(self, model: OpenedModel, spaces: Spaces) -> None:
        """Compare what the options say with what the graphs tell of their inputs."""
        wanted = {
            "mapping": (self.mapping, "z", spaces.shapes["z"]),
            "styles": (self.styles, "w", spaces.shapes["w+"]),
            "synthesis": (self.synthesis, "s", spaces.shapes["s"]),
        }
        if self.noise_size:
            wanted["noise"] = (self.synthesis, "noise", (self.noise_size,))
        for network, name, shape in wanted.values():
            told = network.inputs[name].shape
            fits = len(told) == len(shape) and all(
                side in (None, known) for side, known in zip(told, shape, strict=True)
            )
            if not fits:
                raise InvalidNetwork(
                    f"the options of '{model.id}' ask for '{name}' of {list(shape)}; its network "
                    f"takes {list(told)}"
                )
