"""How alike images are: over several scales, and between a network's features.

PSNR and SSIM of one scale are in `model_store.evaluation.enlargement`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
)

LEAST_SIDE = 11
"""Of the Gaussian window with a standard deviation of 1.5; smaller images have no room for it."""
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales (Wang, Simoncelli and Bovik, 2003, section 3); as many as fit are used."""


def ms_ssim(images: Tensor, real: Tensor) -> float:
    """Mean multi-scale structural similarity, over as many halvings as the window has room for.

    Wang, Simoncelli and Bovik, 2003, eq. 7. Against a reference it measures fidelity; between pairs
    of samples it measures how alike they are, which is missing diversity (`sameness`).

    Args:
        images: ``[n, c, h, w]`` in [-1, 1], both sides at least 11 pixels; clamped.
        real: the same.
    """
    betas = _betas(min(images.shape[-2:]))
    return float(
        multiscale_structural_similarity_index_measure(
            _unit(images),
            _unit(real),
            data_range=1.0,
            betas=betas,
            normalize="relu",
        )
    )


def sameness(images: Tensor) -> float:
    """Mean MS-SSIM of disjoint pairs of samples (Odena et al., 2017, arXiv:1610.09585, 4.2).

    High where samples look alike: compare it with that of real images, never read it as fidelity.
    """
    half = len(images) // 2
    return ms_ssim(images[:half], images[half : 2 * half])


def perceptual_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Distance of images between a network's feature maps, ``[n]``; 0 for equal images.

    As LPIPS without its learned weights (Zhang et al., 2018, arXiv:1801.03924, eq. 1): features are
    normalised over channels, squared differences averaged over places and added over layers. The
    network is this domain's, so it is LPIPS in its form alone.

    Args:
        first: for every layer ``[n, channels, h, w]``.
        second: the same layers of the other images.
    """
    total = torch.zeros(len(first[0]), dtype=torch.float64)
    for one, other in zip(first, second, strict=True):
        apart = functional.normalize(one.double(), dim=1) - functional.normalize(
            other.double(), dim=1
        )
        total += apart.square().sum(dim=1).flatten(1).mean(dim=1)
    return total


def _unit(images: Tensor) -> Tensor:
    return (images.double().clamp(-1, 1) + 1) / 2


def _betas(side: int) -> tuple[float, ...]:
    """Weights of the scales at which the window still fits; they add up to those of all five."""
    scales = 1
    while scales < len(BETAS) and side // 2**scales >= LEAST_SIDE:
        scales += 1
    kept = BETAS[:scales]
    return tuple(beta / sum(kept) for beta in kept)
