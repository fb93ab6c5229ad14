"""Train an IAF of handwritten digits: ``python -m model_store.recipes.digits_iaf``."""

from __future__ import annotations

from typing import Any

from model_store.architectures.autoregressive_flow import IAF, IAFForwardStep
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_flows as flows
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

LAYERS = 2
EVALUATIONS = LAYERS * digits.DIMENSIONS
CONFIG: dict[str, Any] = {"width": 64, "layers": LAYERS, "dropout": 0.2, "alpha": 0.05}
RECIPE = flows.FlowRecipe(
    id="digits-iaf",
    title="IAF",
    summary="An inverse autoregressive flow of 8x8 handwritten digits: the layers of a masked "
    "autoregressive flow used the other way round. A sample is one evaluation; the density of an "
    "image takes one for every value of every layer, which share batches with other requests' and "
    "can be cancelled between any two.",
    settings=Settings(3e-3, 25, weight_decay=0.1, betas=(0.9, 0.98), decay=0.99),
    tags=("iaf", "autoregressive"),
    limits=(
        f"A likelihood takes {LAYERS} x 64 evaluations of the network: `digits-maf` and "
        "`digits-realnvp` take one.",
        "Trained on likelihoods, its slow direction, a step takes ten times as long as a MAF's, so "
        "that it has half the layers and was given fewer steps: it stays behind `digits-maf`.",
    ),
    options={"forward_steps": EVALUATIONS},
)


def build() -> IAF:
    """The untrained flow."""
    return IAF(**CONFIG)


def package(flow: IAF, summary: str) -> Package:
    """Both directions with their numbers, card and samples."""
    stepwise = IAFForwardStep(**CONFIG)
    stepwise.load_state_dict(flow.state_dict())
    networks = [
        NetworkExport(
            name="inverse",
            architecture="iaf",
            module=flow,
            inputs={"z": Input((digits.DIMENSIONS,))},
            config=CONFIG,
            weights="flow",
        ),
        NetworkExport(
            name="forward_step",
            architecture="iaf_forward_step",
            module=stepwise.eval(),
            inputs={
                "state": Input((3, digits.DIMENSIONS), "unit"),
                "index": Input((), "integer", EVALUATIONS),
            },
            config=CONFIG,
            weights="flow",
        ),
    ]
    return flows.package(flow, RECIPE, networks, summary)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=7)
    publish(package(*flows.trained(build, RECIPE, options)))


if __name__ == "__main__":
    main()
