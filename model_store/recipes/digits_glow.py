"""Train a Glow of handwritten digits: ``python -m model_store.recipes.digits_glow``."""

from __future__ import annotations

from typing import Any

from model_store.architectures.glow import Glow, GlowInverse
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_flows as flows
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

CONFIG: dict[str, Any] = {"width": 16, "blocks": 1, "steps": 4, "dropout": 0.1, "alpha": 0.05}
RECIPE = flows.FlowRecipe(
    id="digits-glow",
    title="Glow",
    summary="A Glow of 8x8 handwritten digits: steps of activation normalisation, an invertible "
    "1x1 convolution and an affine coupling at two scales, parallel in both directions.",
    settings=Settings(3e-3, 25, weight_decay=0.1, betas=(0.9, 0.98), decay=0.98),
    tags=("glow",),
    limits=(
        "The inverse 1x1 convolutions are products of the LU factors that are inverted term by "
        "term: nothing is solved when it samples.",
        "The literature has Glow ahead of RealNVP; here `digits-realnvp` is, which has eight times "
        "the weights.",
    ),
)


def build() -> Glow:
    """The untrained flow, every ActNorm set by training images."""
    flow = Glow(**CONFIG)
    flows.standardize(flow)
    flow.initialize(digits.dequantized("train", seed=9))
    return flow


def package(flow: Glow, summary: str) -> Package:
    """Both directions with their numbers, card and samples."""
    backward = GlowInverse(**CONFIG)
    backward.load_state_dict(flow.state_dict())
    networks = [
        NetworkExport(
            name="forward",
            architecture="glow",
            module=flow,
            inputs={"x": Input(flows.IMAGE, "unit")},
            config=CONFIG,
            weights="flow",
        ),
        NetworkExport(
            name="inverse",
            architecture="glow_inverse",
            module=backward.eval(),
            inputs={"z": Input((digits.DIMENSIONS,))},
            config=CONFIG,
            weights="flow",
        ),
    ]
    return flows.package(flow, RECIPE, networks, summary)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=6)
    publish(package(*flows.trained(build, RECIPE, options)))


if __name__ == "__main__":
    main()
