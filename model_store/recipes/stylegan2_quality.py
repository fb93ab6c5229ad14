"""What the StyleGAN2 recipe measures: samples against held-out images, paths, mixing and noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_store.evaluation import judge
from model_store.evaluation.metrics.distances import frechet_distance
from model_store.evaluation.metrics.fidelity import perceptual_distance
from model_store.evaluation.metrics.manifolds import coverage
from model_store.evaluation.metrics.path_length import perceptual_path_length
from model_store.evaluation.suite.features import ShapesClassifier
from model_store.recipes import shapes
from model_store.recipes.stylegan2_drawing import RESOLUTION
from model_store.recipes.stylegan2_games import LATENT, Player

MEASURED = 1000
PATHS = 256
GRAINED = 200
"""Samples whose noise is measured."""
PART = 100


@torch.no_grad()
def drawn(player: Player, w: Tensor, noise: Tensor | None = None) -> Tensor:
    """Images ``[n, 3, 64, 64]`` in [-1, 1] of latents, a part at a time."""
    noises: tuple[Tensor | None, ...] = (
        (None,) * len(w.split(PART)) if noise is None else noise.split(PART)
    )
    parts = zip(w.split(PART), noises, strict=True)
    return torch.cat([player.generator(*part).clamp(-1, 1) for part in parts])


@torch.no_grad()
def latents(player: Player, count: int, seed: int) -> Tensor:
    """Latents w ``[count, STYLE]`` of fresh noise."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    return player.mapping(z)


def read(images: Tensor) -> Tensor:
    """Factors ``[n, 6]`` that the judge reads, at the 32x32 it knows."""
    return judge.read_factors(functional.avg_pool2d(images, 2))


def rounded(images: Tensor) -> Tensor:
    """As 8-bit pixels."""
    return ((images + 1) * 127.5).round().byte()


def likeness(images: Tensor, *, split: shapes.Split = "test") -> dict[str, float]:
    """How near made images are to as many held-out ones, as the domain's classifier sees them."""
    features = ShapesClassifier()
    generator = torch.Generator().manual_seed(31)
    real, _ = shapes.batch(len(images), split, generator, resolution=RESOLUTION)
    made, held_out = (features.vectors(rounded(part)) for part in (images, real))
    covered = coverage(made, held_out)
    return {
        "fid_domain_classifier": round(frechet_distance(made, held_out), 3),
        **{f"{kind}_domain_classifier": round(v, 4) for kind, v in covered._asdict().items()},
    }


def paths(player: Player) -> float:
    """Perceptual path length along z, from end to end."""
    features = ShapesClassifier()

    def compare(first: Tensor, second: Tensor) -> Tensor:
        return perceptual_distance(features.maps(first), features.maps(second))

    return perceptual_path_length(
        lambda z: drawn(player, player.mapping(z)), compare, (LATENT,), pairs=PATHS
    )


def mixed(w: Tensor, layers: int, cut: int) -> Tensor:
    """Latents of two neighbours: the first's layers up to ``cut``, the second's from there on."""
    first = (torch.arange(layers) < cut)[None, :, None]
    return torch.where(first, w[:, None], w.roll(1, dims=0)[:, None])


def measure_mixing(player: Player, w: Tensor) -> dict[str, dict[str, float]]:
    """Which factors follow the first of two mixed latents, by the layer they are cut at."""
    layers = player.generator.layers
    own = read(drawn(player, w))
    found = {}
    for cut in range(1, layers):
        shown = read(drawn(player, mixed(w, layers, cut)))
        same = (shown == own).float().mean(dim=0)
        found[f"cut_{cut}"] = {
            name: round(float(same[i]), 3) for i, name in enumerate(judge.FACTORS)
        }
    return found


def measure(player: Player) -> dict[str, Any]:
    """Everything but directions and inversion."""
    w = latents(player, MEASURED, seed=12)
    images = drawn(player, w)
    factors = read(images)
    few = w[:GRAINED]
    noise = torch.randn(
        len(few),
        player.generator.synthesis.noise_size,
        generator=torch.Generator().manual_seed(5),
    )
    change = (drawn(player, few, noise) - images[:GRAINED]).abs().mean() * 127.5
    return {
        **likeness(images),
        "judge_confidence": judge.confidence(functional.avg_pool2d(images, 2)),
        "evenness": judge.factors_evenness(factors),
        "perceptual_path_length_domain_classifier": round(paths(player), 2),
        "follows_the_first_of_two_mixed": measure_mixing(player, w[:300]),
        "noise_changes_levels_of_255": round(float(change), 3),
        "samples": MEASURED,
    }
