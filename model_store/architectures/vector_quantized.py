"""An autoencoder with a discrete latent: VQ-VAE (van den Oord et al., 2017, arXiv:1711.00937).

All depth is spent behind a patch embedding. A linear path runs beside the deep one, so that
training can start at what principal components of the patches reconstruct.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import ResidualBlock


class Codebook(nn.Module):
    """Vectors that stand for codes; moved by averages of what is assigned, not by gradients."""

    vectors: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        """Hold ``codes`` vectors of ``dim`` numbers."""
        super().__init__()
        self.register_buffer("vectors", torch.randn(codes, dim))

    def scores(self, features: Tensor) -> Tensor:
        """Minus the squared distance of ``[n, dim, h, w]`` to each vector: ``[n, h * w, codes]``.

        The largest is the nearest.
        """
        rows = features.flatten(2).transpose(1, 2)
        products = rows @ self.vectors.T
        lengths = rows.square().sum(dim=2, keepdim=True) + self.vectors.square().sum(dim=1)
        return 2 * products - lengths

    def look_up(self, codes: Tensor, height: int, width: int) -> Tensor:
        """The vectors of codes ``[n, height * width]``, row by row: ``[n, dim, height, width]``."""
        found = functional.embedding(codes, self.vectors)
        # `len` of a tensor would be written into an exported graph as a number.
        return found.transpose(1, 2).reshape(codes.shape[0], -1, height, width)


class PatchFeatures(nn.Module):
    """Image to a vector for each patch."""

    def __init__(self, channels: int, dim: int, patch: int, width: int, blocks: int) -> None:
        """Build for square patches of ``patch`` pixels."""
        super().__init__()
        self.linear = nn.Conv2d(channels, dim, patch, stride=patch)
        self.inlet = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, dim, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, dim, h / patch, w / patch]``."""
        return self.linear(image) + self.head(self.blocks(self.inlet(image)))


class PatchPainter(nn.Module):
    """A vector for each patch to an image: depth, pixel shuffle, a 3x3 refinement."""

    def __init__(
        self, channels: int, dim: int, patch: int, width: int, blocks: int, fine: int
    ) -> None:
        """Build with ``fine`` feature maps at the image's resolution."""
        super().__init__()
        self.linear = nn.ConvTranspose2d(dim, channels, patch, stride=patch)
        self.inlet = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.expand = nn.Conv2d(width, fine * patch * patch, 3, padding=1)
        self.shuffle = nn.PixelShuffle(patch)
        self.refine = nn.Conv2d(fine, channels, 3, padding=1)
        nn.init.zeros_(self.refine.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """``[n, dim, h, w]`` to ``[n, channels, h * patch, w * patch]``, nominally in [-1, 1]."""
        h = self.shuffle(self.expand(functional.silu(self.blocks(self.inlet(vectors)))))
        return self.linear(vectors) + self.refine(functional.silu(h))


class VectorQuantizedEncoder(nn.Module):
    """Image to a score of every code at every cell of a grid."""

    outputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(
        self,
        channels: int = 3,
        codes: int = 512,
        dim: int = 8,
        patch: int = 4,
        width: int = 48,
        blocks: int = 2,
    ) -> None:
        """Build with a codebook of ``codes`` vectors of ``dim`` numbers."""
        super().__init__()
        self.features = PatchFeatures(channels, dim, patch, width, blocks)
        self.codebook = Codebook(codes, dim)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, h, w]`` in [-1, 1] to ``[n, cells, codes]``; the largest is the code."""
        return self.codebook.scores(self.features(image))


class VectorQuantizedDecoder(nn.Module):
    """Codes to the image that they stand for."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        channels: int = 3,
        side: int = 8,
        codes: int = 512,
        dim: int = 8,
        patch: int = 4,
        width: int = 48,
        blocks: int = 3,
        fine: int = 12,
    ) -> None:
        """Build for a grid of ``side`` by ``side`` codes."""
        super().__init__()
        self.side = side
        self.codebook = Codebook(codes, dim)
        self.painter = PatchPainter(channels, dim, patch, width, blocks, fine)

    def forward(self, codes: Tensor) -> Tensor:
        """int64 ``[n, side * side]`` to ``[n, channels, side * patch, side * patch]``."""
        return self.painter(self.codebook.look_up(codes, self.side, self.side))
