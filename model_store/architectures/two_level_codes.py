"""A discrete autoencoder of two levels: VQ-VAE-2 (Razavi et al., 2019, arXiv:1906.00446)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.vector_quantized import Codebook, PatchFeatures, PatchPainter


class TwoLevelFeatures(nn.Module):
    """What both levels see: fine features, coarse ones made of them, and fine ones given coarse."""

    def __init__(self, channels: int, dim: int, patch: int, width: int, blocks: int) -> None:
        """Build for fine cells of ``patch`` pixels, and coarse cells of twice that."""
        super().__init__()
        self.fine = PatchFeatures(channels, dim, patch, width, blocks)
        self.coarse = PatchFeatures(channels, dim, 2 * patch, width, blocks)
        self.given = nn.Conv2d(2 * dim, dim, 3, padding=1)
        nn.init.zeros_(self.given.weight)

    def top(self, image: Tensor) -> Tensor:
        """Coarse features of ``[n, channels, h, w]``: ``[n, dim, h / 2 patch, w / 2 patch]``."""
        return self.coarse(image)

    def bottom(self, image: Tensor, top: Tensor) -> Tensor:
        """Fine features, given the quantised coarse ones: ``[n, dim, h / patch, w / patch]``."""
        fine = self.fine(image)
        return fine + self.given(torch.cat([fine, enlarged(top)], dim=1))


class TwoLevelEncoder(nn.Module):
    """Image to the scores of every code: those of the coarse grid, then those of the fine one."""

    outputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(
        self,
        channels: int = 1,
        side: int = 2,
        codes: int = 64,
        dim: int = 8,
        patch: int = 2,
        width: int = 32,
        blocks: int = 1,
    ) -> None:
        """Build for ``side`` by ``side`` coarse cells and twice as many fine ones either way."""
        super().__init__()
        self.side = side
        self.features = TwoLevelFeatures(channels, dim, patch, width, blocks)
        self.top_codebook, self.bottom_codebook = Codebook(codes, dim), Codebook(codes, dim)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, h, w]`` in [-1, 1] to ``[n, cells, codes]``; the largest is the code.

        Fine scores are those given the coarse codes that the largest scores name.
        """
        top = self.top_codebook.scores(self.features.top(image))
        vectors = self.top_codebook.look_up(top.argmax(dim=2), self.side, self.side)
        bottom = self.bottom_codebook.scores(self.features.bottom(image, vectors))
        return torch.cat([top, bottom], dim=1)


class TwoLevelDecoder(nn.Module):
    """Codes of both levels to the image that they stand for."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        channels: int = 1,
        side: int = 2,
        codes: int = 64,
        dim: int = 8,
        patch: int = 2,
        width: int = 32,
        blocks: int = 2,
        fine: int = 8,
    ) -> None:
        """Build for what a `TwoLevelEncoder` of the same ``side`` gives."""
        super().__init__()
        self.side = side
        self.top_codebook, self.bottom_codebook = Codebook(codes, dim), Codebook(codes, dim)
        self.painter = PatchPainter(channels, 2 * dim, patch, width, blocks, fine)

    def forward(self, codes: Tensor) -> Tensor:
        """int64 ``[n, 5 * side ** 2]``, coarse ones first, to ``[n, channels, h, w]``."""
        side = self.side
        top = self.top_codebook.look_up(codes[:, : side * side], side, side)
        bottom = self.bottom_codebook.look_up(codes[:, side * side :], 2 * side, 2 * side)
        return self.paint(top, bottom)

    def paint(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Vectors of both levels to an image."""
        return self.painter(torch.cat([enlarged(top), bottom], dim=1))


def enlarged(vectors: Tensor) -> Tensor:
    """Every cell as four: ``[n, dim, h, w]`` to ``[n, dim, 2h, 2w]``."""
    return functional.interpolate(vectors, scale_factor=2, mode="nearest")
