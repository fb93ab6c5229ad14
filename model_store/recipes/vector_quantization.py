"""What the recipes of discrete autoencoders share: a moving codebook, and how much of it is used.

The codebook follows averages of what is assigned to it (van den Oord et al., 2017,
arXiv:1711.00937, appendix A.1); a code that nothing is assigned to begins anew at a random feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.vector_quantized import Codebook, PatchFeatures, PatchPainter

DECAY = 0.99
DEAD = 0.03
"""A code is dead when its average count per batch falls below this share of an even one."""
COMMITMENT = 0.25
LLOYD_ROUNDS = 8


class MovingCodebook(nn.Module):
    """The averages behind a codebook; its buffers belong into the checkpoint."""

    count: Tensor
    total: Tensor
    started: Tensor

    def __init__(self, codebook: Codebook) -> None:
        """Follow ``codebook``, which is written to."""
        super().__init__()
        self.codebook = codebook
        self.register_buffer("count", torch.ones(len(codebook.vectors)))
        self.register_buffer("total", codebook.vectors.clone())
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def start(self, features: Tensor, generator: torch.Generator) -> None:
        """Begin at the centres that k-means finds among features ``[m, dim]``."""
        vectors = self.codebook.vectors
        vectors.copy_(drawn(features, len(vectors), generator))
        for _ in range(LLOYD_ROUNDS):
            codes = nearest(features, vectors)
            count = codes.bincount(minlength=len(vectors)).float()
            total = torch.zeros_like(vectors).index_add_(0, codes, features)
            found = total / count.clamp(min=1)[:, None]
            lost = drawn(features, len(vectors), generator)
            vectors.copy_(torch.where(count[:, None] > 0, found, lost))
        self.count.fill_(len(features) / len(vectors))
        self.total.copy_(vectors * self.count[:, None])
        self.started.fill_(True)

    def quantize(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features ``[n, dim, h, w]`` at their nearest vectors, and the commitment loss.

        Gradients pass straight through. In training mode the averages move.
        """
        height, width = features.shape[2:]
        rows = features.detach().permute(0, 2, 3, 1).flatten(0, 2)
        if self.training and not bool(self.started):
            self.start(rows, generator)
        codes = nearest(rows, self.codebook.vectors)
        found = self.codebook.look_up(codes.view(len(features), -1), height, width)
        if self.training:
            self._move(rows, codes, generator)
        commitment = (features - found).square().mean()
        return features + (found - features).detach(), COMMITMENT * commitment

    @torch.no_grad()
    def _move(self, rows: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        vectors = self.codebook.vectors
        count = codes.bincount(minlength=len(vectors)).float()
        total = torch.zeros_like(vectors).index_add_(0, codes, rows)
        self.count.lerp_(count, 1 - DECAY)
        self.total.lerp_(total, 1 - DECAY)
        even = len(rows) / len(vectors)
        dead = self.count < DEAD * even
        if dead.any():
            self.total[dead] = even * drawn(rows, int(dead.sum()), generator)
            self.count[dead] = even
        vectors.copy_(self.total / self.count[:, None])


def start_from_principal_components(
    features: PatchFeatures, painter: PatchPainter, images: Tensor
) -> None:
    """Set both linear paths to the leading principal components of the images' patches."""
    linear = features.linear
    size, channels = linear.kernel_size[0], linear.in_channels
    patches = functional.unfold(images, size, stride=size).transpose(1, 2)
    patches = patches.reshape(-1, channels * size * size)
    mean = patches.mean(0)
    _, _, basis = torch.linalg.svd(patches[::7] - mean, full_matrices=False)
    basis = basis[: linear.out_channels]
    with torch.no_grad():
        for layer, bias in (
            (linear, -basis @ mean),
            (painter.linear, mean.view(channels, -1).mean(1)),
        ):
            layer.load_state_dict({"weight": basis.view_as(layer.weight), "bias": bias})


def nearest(rows: Tensor, vectors: Tensor) -> Tensor:
    """The nearest of ``[codes, dim]`` to each of ``[m, dim]``: int64 ``[m]``."""
    return (2 * rows @ vectors.T - vectors.square().sum(dim=1)).argmax(dim=1)


def drawn(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the rows, drawn with replacement."""
    return rows[torch.randint(len(rows), (count,), generator=generator)]


@torch.no_grad()
def encoded(encoder: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """The codes of images: int64 ``[n, length]``."""
    return torch.cat([encoder(part).argmax(dim=2) for part in images.split(batch)])


@torch.no_grad()
def decoded(decoder: nn.Module, codes: Tensor, *, batch: int = 256) -> Tensor:
    """The images of codes ``[n, length]``."""
    return torch.cat([decoder(part) for part in codes.split(batch)])


def codebook_use(
    codes: Tensor, size: int, levels: Sequence[int], names: Sequence[str]
) -> dict[str, float]:
    """Of each level: the share of codes that occur, and how many even codes would say as much.

    Args:
        codes: int64 ``[n, length]``, all levels one after another.
        size: codes in a codebook.
        levels: codes of one image, by level.
        names: of the levels; one level needs none.
    """
    found = {}
    for part, name in zip(codes.split(list(levels), dim=1), names, strict=True):
        share = part.flatten().bincount(minlength=size) / part.numel()
        suffix = f"_{name}" if name else ""
        found[f"codebook_use{suffix}"] = round(float((share > 0).float().mean()), 4)
        perplexity = float(torch.special.entr(share.double()).sum().exp())
        found[f"codebook_perplexity{suffix}"] = round(perplexity, 1)
    return found
