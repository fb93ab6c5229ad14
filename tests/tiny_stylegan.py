"""A style-based generator of a few hundred numbers: real layers, random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architectures.stylegan2 import StyleMapping, StyleModulations, StyleSynthesis
from services.core.network import OpenedModel
from tests.differentiable import with_gradients
from tests.engines import RowByRow, floats, opened

Z, D, SIDE = 4, 3, 8
ATTRIBUTES = [
    {"name": "size", "direction": [0.6, 0.8, 0.0], "unit": 0.5, "source": "svm", "accuracy": 0.9},
    {"name": "pca_1", "direction": [0.0, 0.0, 1.0], "layers": [1, 2], "source": "pca"},
]


def style_networks() -> tuple[StyleMapping, StyleModulations, StyleSynthesis]:
    """Noise to style, style to modulations, modulations to an image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        synthesis = StyleSynthesis(resolution=SIDE, width=6, fine=4, layers=2, bands=2)
        with torch.no_grad():
            for layer in (*synthesis.coarse, synthesis.fine):
                layer.noise_strength.fill_(0.3)
        mapping = StyleMapping(latent=Z, style=D, width=8, layers=2)
        return (
            mapping.eval(),
            StyleModulations(D, synthesis.style_channels).eval(),
            synthesis.eval(),
        )


def stylegan_options() -> dict[str, Any]:
    """What the manifest of these networks says."""
    mapping, _, synthesis = style_networks()
    z = torch.randn(64, Z, generator=torch.Generator().manual_seed(0))
    return {
        "latent": {"shape": [Z]},
        "layers": len(synthesis.style_channels),
        "style_channels": synthesis.style_channels,
        "noise_size": synthesis.noise_size,
        "w_mean": mapping(z).mean(dim=0).tolist(),
        "attributes": ATTRIBUTES,
    }


def tiny_stylegan(**options: Any) -> OpenedModel:
    """A generator of 8 x 8 images in colour, with an encoder that guesses, and with gradients.

    Args:
        options: in place of those of `stylegan_options`.
    """
    mapping, styles, synthesis = style_networks()
    told = stylegan_options() | options
    layers = told["layers"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        guess = nn.Linear(3 * SIDE * SIDE, layers * D)

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        return {"w": guess(image.flatten(1)).view(-1, layers, D)}

    networks = {
        "mapping": _network(lambda z: {"w": mapping(z)}, {"z": (Z,)}, "w"),
        "styles": _network(lambda w: {"s": styles(w)}, {"w": (layers, D)}, "s"),
        "synthesis": _network(
            lambda s, noise: {"image": synthesis(s, noise)},
            {"s": (sum(synthesis.style_channels),), "noise": (synthesis.noise_size,)},
            "image",
        ),
        "encoder": _network(encode, {"image": (3, SIDE, SIDE)}, "w"),
    }
    model = opened("stylegan", networks, resolution=(SIDE, SIDE), channels=3, options=told)
    return with_gradients(with_gradients(model, "styles"), "synthesis")


def without(model: OpenedModel, *networks: str) -> OpenedModel:
    """The same model with networks left out of its manifest."""
    kept = {name: network for name, network in model.networks.items() if name not in networks}
    return replace(model, networks=kept)


def _network(
    function: Callable[..., Mapping[str, Tensor]],
    inputs: Mapping[str, tuple[int, ...]],
    output: str,
) -> RowByRow:
    specs = {name: floats(*shape) for name, shape in inputs.items()}
    return RowByRow(function, specs, [output])
