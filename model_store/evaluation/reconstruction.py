"""How close a reconstruction is to its original."""

from __future__ import annotations

import torch
from torch import Tensor


def peak_signal_to_noise(image: Tensor, original: Tensor) -> float:
    """Mean PSNR in dB over images ``[n, c, h, w]`` in [-1, 1]; the first argument is clamped."""
    error = ((image.detach().clamp(-1, 1) - original) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * torch.log10(error)).mean())
