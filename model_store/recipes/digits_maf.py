"""Train a MAF of handwritten digits: ``python -m model_store.recipes.digits_maf``."""

from __future__ import annotations

from typing import Any

from model_store.architectures.autoregressive_flow import MAF, MAFInverseStep
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_flows as flows
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

LAYERS = 4
EVALUATIONS = LAYERS * digits.DIMENSIONS
CONFIG: dict[str, Any] = {"width": 64, "layers": LAYERS, "dropout": 0.2, "alpha": 0.05}
RECIPE = flows.FlowRecipe(
    id="digits-maf",
    title="MAF",
    summary="A masked autoregressive flow of 8x8 handwritten digits: every pixel shifted and "
    "scaled by those before it, in the order of reading and against it in turn. A density is one "
    "evaluation; a sample takes one for every value of every layer, which share batches with "
    "other requests' and can be cancelled between any two.",
    settings=Settings(3e-3, 25, weight_decay=0.1, betas=(0.9, 0.98), decay=0.99),
    tags=("maf", "autoregressive"),
    limits=(
        f"A sample takes {LAYERS} x 64 evaluations of the network: `digits-realnvp` and "
        "`digits-iaf` sample in one.",
        "The literature has MAF ahead of RealNVP; here `digits-realnvp` is, by 0.08 bits per "
        "dimension: its convolutions know which pixels are neighbours, and it has four times the "
        "weights, while these layers see a list of values.",
    ),
    options={"inverse_steps": EVALUATIONS},
)


def build() -> MAF:
    """The untrained flow."""
    return MAF(**CONFIG)


def package(flow: MAF, summary: str) -> Package:
    """Both directions with their numbers, card and samples."""
    stepwise = MAFInverseStep(**CONFIG)
    stepwise.load_state_dict(flow.state_dict())
    networks = [
        NetworkExport(
            name="forward",
            architecture="maf",
            module=flow,
            inputs={"x": Input(flows.IMAGE, "unit")},
            config=CONFIG,
            weights="flow",
        ),
        NetworkExport(
            name="inverse_step",
            architecture="maf_inverse_step",
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
    options = arguments(__doc__ or "", minutes=3)
    publish(package(*flows.trained(build, RECIPE, options)))


if __name__ == "__main__":
    main()
