"""What the recipes of autoregressive models share: training the transformer, and drawing codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.token_transformer import TokenTransformer
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.training import compiled
from services.sampling.categorical import filtered, guided, pick

COMPILED_MINUTES = 10.0
"""Shorter runs would spend too much of their time on compiling."""
Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Draws words ``[n, slots]`` and codes ``[n, length]``."""


class Teacher(nn.Module):
    """Cross-entropy of codes under their own prefixes (teacher forcing), nats per code."""

    def __init__(self, network: nn.Module) -> None:
        """Judge by ``network``, a `TokenTransformer`."""
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, codes: Tensor) -> Tensor:
        """Words ``[n, slots]`` and codes ``[n, length]`` to a scalar."""
        logits = self.network.sequence(tokens, codes)  # type: ignore[operator]  # a method
        return functional.cross_entropy(logits.flatten(0, 1), codes.flatten())


def train_prior(
    name: str,
    network: TokenTransformer,
    batch: Batch,
    held_out: tuple[Tensor, Tensor],
    options: argparse.Namespace,
    settings: Settings,
) -> tuple[TokenTransformer, str]:
    """Maximise the likelihood of codes until the time is spent.

    Returns:
        The averaged weights that did best on the held-out codes, and how long it took.
    """
    teacher: Callable[..., Tensor] = Teacher(network)
    if options.minutes >= COMPILED_MINUTES:
        teacher = compiled(Teacher(network))
    found, summary = fit(
        name,
        network,
        lambda _, generator: teacher(*batch(generator)),
        lambda candidate: Teacher(candidate)(*held_out),
        options,
        settings,
    )
    if not isinstance(found, TokenTransformer):
        raise TypeError("the best weights are of another network; this is a bug")
    return found, summary


@torch.no_grad()
def log_likelihood(network: TokenTransformer, tokens: Tensor, codes: Tensor) -> Tensor:
    """Nats of each image's codes, in one pass without a cache: ``[n]``."""
    parts = []
    for words, part in zip(tokens.split(128), codes.split(128), strict=True):
        found = network.sequence(words, part).double().log_softmax(dim=2)
        parts.append(found.gather(2, part[..., None]).sum(dim=(1, 2)))
    return torch.cat(parts)


@torch.no_grad()
def draw_codes(
    network: TokenTransformer, tokens: Tensor, seed: int, settings: Mapping[str, Any]
) -> Tensor:
    """Codes int64 ``[n, length]`` of words ``[n, slots]``, with the cache, as they are served.

    Args:
        network: in eval mode.
        tokens: 0 where nothing is said.
        seed: of the draws.
        settings: some of ``temperature``, ``top_k``, ``top_p`` and ``guidance_scale``.
    """
    generator = torch.Generator().manual_seed(seed)
    count, scale = len(tokens), float(settings.get("guidance_scale", 1.0))
    asked = tokens if scale == 1.0 else torch.cat([tokens, torch.zeros_like(tokens)])
    cache = empty_cache(network, len(asked))
    token, codes = asked[:, 0], []
    each = torch.ones(count, dtype=torch.float64)
    for index in range(network.positions):
        position = torch.full((len(asked),), index)
        logits, entry = network(token, position, asked, cache)
        cache[:, :, :, index] = entry
        if index + 1 < network.words:
            token = asked[:, index + 1]
            continue
        if scale != 1.0:
            logits = guided(logits[:count], logits[count:], scale * each)
        probabilities = filtered(
            logits,
            settings.get("temperature", 1.0) * each,
            (settings.get("top_k", 0) * each).long(),
            settings.get("top_p", 1.0) * each,
        )
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        codes.append(pick(probabilities, uniform))
        token = codes[-1].repeat(len(asked) // count)
    return torch.stack(codes, dim=1)


def empty_cache(network: TokenTransformer, count: int) -> Tensor:
    """A cache for ``count`` rows that holds nothing yet."""
    width = network.place.shape[1]
    return torch.zeros(count, len(network.blocks), 2, network.positions, width)
