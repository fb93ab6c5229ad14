"""How close an enlarged image comes to the one that was made small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11
WINDOW_SIGMA = 1.5
STABILIZERS = (0.01**2, 0.03**2)
"""C1 and C2 for images in [0, 1] (Wang et al., 2004, section III.B)."""


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit files hold them, in [0, 1], float64."""
    return ((images.double().clamp(-1, 1) + 1) * 127.5).round() / 255


def psnr(images: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every image, ``[n]`` decibels.

    Args:
        images: ``[n, 3, h, w]`` in [-1, 1].
        real: the same.
    """
    error = (rounded(images) - rounded(real)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim(images: Tensor, real: Tensor) -> Tensor:
    """Structural similarity of every image, ``[n]`` (Wang et al., 2004, eq. 13).

    Means over channels and over the places where the Gaussian window fits.
    """
    x, y = rounded(images), rounded(real)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x.square()
    variance_y = _windowed(y * y) - mean_y.square()
    covariance = _windowed(x * y) - mean_x * mean_y
    first, second = STABILIZERS
    similar = (2 * mean_x * mean_y + first) * (2 * covariance + second)
    total = (mean_x.square() + mean_y.square() + first) * (variance_x + variance_y + second)
    return (similar / total).flatten(1).mean(dim=1)


def sharpness(images: Tensor, real: Tensor) -> float:
    """Energy of the Laplacian over that of the real images: 1 as sharp, less is blurred.

    It tells how much detail there is, not whether it is right.
    """
    first, second = (_laplacian(rounded(one)).square().sum() for one in (images, real))
    return float(first / second)


def _windowed(images: Tensor) -> Tensor:
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-places.square() / (2 * WINDOW_SIGMA**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2).expand(images.shape[1], 1, -1, -1)
    return functional.conv2d(images, window, groups=images.shape[1])


def _laplacian(images: Tensor) -> Tensor:
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).double()
    return functional.conv2d(images, kernel.expand(images.shape[1], 1, 3, 3), groups=3)
