"""Train NICE of handwritten digits: ``python -m model_store.recipes.digits_nice``."""

from __future__ import annotations

from typing import Any

from model_store.architectures.nice import NICE, NICEInverse
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_flows as flows
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

CONFIG: dict[str, Any] = {"width": 64, "couplings": 4, "dropout": 0.2, "alpha": 0.05}
RECIPE = flows.FlowRecipe(
    id="digits-nice",
    title="NICE",
    summary="A NICE flow of 8x8 handwritten digits: additive couplings of either half of a "
    "checkerboard in turn, which keep every volume, and one scaling of every value at the end.",
    settings=Settings(3e-3, 50, weight_decay=0.1, betas=(0.9, 0.98), decay=0.99),
    tags=("nice",),
    limits=(
        "Additive couplings stretch nothing: `log_det` is that of the logit and of the scaling "
        "alone, which is why it stays behind flows with affine couplings.",
    ),
)


def build() -> NICE:
    """The untrained flow."""
    return NICE(**CONFIG)


def package(flow: NICE, summary: str) -> Package:
    """Both directions with their numbers, card and samples."""
    backward = NICEInverse(**CONFIG)
    backward.load_state_dict(flow.state_dict())
    networks = [
        NetworkExport(
            name="forward",
            architecture="nice",
            module=flow,
            inputs={"x": Input(flows.IMAGE, "unit")},
            config=CONFIG,
            weights="flow",
        ),
        NetworkExport(
            name="inverse",
            architecture="nice_inverse",
            module=backward.eval(),
            inputs={"z": Input((digits.DIMENSIONS,))},
            config=CONFIG,
            weights="flow",
        ),
    ]
    return flows.package(flow, RECIPE, networks, summary)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=3)
    publish(package(*flows.trained(build, RECIPE, options)))


if __name__ == "__main__":
    main()
