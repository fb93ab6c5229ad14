"""Perceptual path length: how evenly an image changes along a path through a latent space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from services.sampling.interpolation import slerp

STEP = 1e-2
KEPT = (1.0, 99.0)
"""Percentiles beyond which pairs do not count, as in the paper's code."""

Compare = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images to their distances ``[n]``."""


@torch.no_grad()
def perceptual_path_length(
    generate: Callable[[Tensor], Tensor],
    compare: Compare,
    shape: tuple[int, ...],
    *,
    pairs: int,
    step: float = STEP,
    seed: int = 0,
) -> float:
    """``E[d(G(slerp(z1, z2; t)), G(slerp(z1, z2; t + e))) / e^2]`` over the full path.

    Karras et al., 2019, arXiv:1812.04948, eq. 2. ``step`` is larger than the paper's 1e-4, below
    the rounding of half-precision weights; what is compared is not rounded to 8 bits.

    Args:
        generate: latents ``[n, *shape]`` to images.
        compare: a perceptual distance.
        shape: of one latent, drawn from N(0, I).
        pairs: how many paths.
        step: e.
        seed: of the latents and places.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(pairs, *shape, generator=generator) for _ in range(2))
    places = torch.rand(pairs, generator=generator) * (1 - step)
    here, there = (
        torch.stack(
            [slerp(a, b, float(t)) for a, b, t in zip(first, second, places + moved, strict=True)]
        )
        for moved in (0.0, step)
    )
    lengths = (compare(generate(here), generate(there)).double() / step**2).numpy()
    low, high = np.percentile(lengths, KEPT)
    return float(lengths[(lengths >= low) & (lengths <= high)].mean())
