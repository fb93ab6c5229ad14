"""What a diffusion model can do: this follows from its networks and its schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.core.model import Conditioning
from services.core.parameters import Parameters
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import (
    Encode,
    Generate,
    Inpaint,
    Interpolate,
    Invert,
    Likelihood,
    Outpaint,
    Variation,
)
from services.sampling.schedule import VarianceExploding

NEEDS_ENCODER = {"variation", "inpaint", "outpaint", "invert", "encode"}
EVERYTHING: dict[str, type[Parameters]] = {
    "generate": Generate,
    "variation": Variation,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "invert": Invert,
    "interpolate": Interpolate,
    "likelihood": Likelihood,
    "encode": Encode,
}


def operations_of(
    options: DiffusionOptions, *, has_encoder: bool
) -> Mapping[str, type[Parameters]]:
    """The operations of a model, with their parameters.

    Args:
        options: the model's.
        has_encoder: whether images find their way into the space that it denoises.
    """
    in_latents = options.latent is not None
    judged = has_encoder and (not in_latents or options.observation is not None)
    without = set() if has_encoder else NEEDS_ENCODER
    without = without if judged else without | {"likelihood"}
    if isinstance(options.schedule, VarianceExploding):
        without = without | {"likelihood", "encode"}  # both end in noise of unit variance
    return {name: kind for name, kind in EVERYTHING.items() if name not in without}


def refusal_of(name: str, model_id: str, operations: Sequence[str]) -> str:
    """Why a model does not do what was asked, and what it does."""
    offered = f"it offers {', '.join(operations)}"
    if name == "reconstruct":
        return (
            f"{model_id} does not reconstruct; encode the image and generate from its latents, or "
            f"use a VAE; {offered}"
        )
    return f"{model_id} cannot {name}; {offered}"


def conditioning_of(kind: Conditioning, *, aimed: bool) -> tuple[Conditioning, ...]:
    """What a model can be told, its denoiser being told ``kind``.

    Args:
        kind: of the denoiser's condition.
        aimed: whether the model has a classifier, which is told a label.
    """
    if not aimed or kind == "label":
        return (kind,)
    return ("label",) if kind == "none" else (kind, "label")
