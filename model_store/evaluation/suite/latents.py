"""What a latent space is like: how evenly images change, and what its numbers stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model_store.evaluation.metrics.disentanglement import dci
from model_store.evaluation.metrics.fidelity import perceptual_distance
from model_store.evaluation.metrics.path_length import perceptual_path_length
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import Features
from model_store.evaluation.suite.held_out import Factor
from model_store.evaluation.suite.measured import Measurement, measurement
from services.core.job import Task
from services.core.network import Network, OpenedModel
from services.core.parameters import Latents

DECODERS = ("generator", "decoder")
LEAST_CODES = 200
"""Fewer images than this fit no forest worth reading."""
MOST_NUMBERS = 256
READ_SHARE = 2 / 3


def decoder_of(model: OpenedModel) -> Network | None:
    """The network that makes an image of one latent in one evaluation, where there is one."""
    for name in DECODERS:
        network = model.networks.get(name)
        if network is not None and "z" in network.inputs and set(network.inputs) <= {"z", "label"}:
            return network
    return None


def path_length(
    model: OpenedModel, features: Features, *, labels: int, pairs: int, seed: int
) -> list[Measurement]:
    """Perceptual path length, of images that are not rounded to 8 bits.

    The network is evaluated itself: the service answers in 8 bits, whose steps are as large as
    those of the path.

    Args:
        model: with a network that `decoder_of` finds.
        features: with maps to compare images by.
        labels: how many the model has; one is drawn for each path.
        pairs: paths.
        seed: of the latents, the places and the labels.
    """
    decoder = decoder_of(model)
    if decoder is None:
        return []
    shape = tuple(side for side in decoder.inputs["z"].shape if side is not None)
    draws = torch.randint(max(labels, 1), (pairs,), generator=torch.Generator().manual_seed(seed))
    low, high = model.pixel_range

    def generate(z: Tensor) -> Tensor:
        told = {"label": draws} if "label" in decoder.inputs else {}
        (image,) = list(decoder(z=z, **told).values())[:1]
        return (image - low) / (high - low) * 2 - 1

    def compare(first: Tensor, second: Tensor) -> Tensor:
        maps = features.maps(first), features.maps(second)
        return perceptual_distance(maps[0] or (), maps[1] or ())

    found = perceptual_path_length(generate, compare, shape, pairs=pairs, seed=seed)
    name = f"perceptual_path_length_{features.described.name}"
    return [measurement(name, found, images=2 * pairs, better="lower")]


async def disentanglement(
    subject: Subject, images: Tensor, factors: Mapping[str, Factor], *, seed: int
) -> list[Measurement]:
    """DCI of the codes of images whose factors are known; nothing of codes that are no vector."""
    items = await subject.of_each("encodings", Task.ENCODE, images)
    codes = [Latents.model_validate(item.values["latents"]).array() for item in items]
    if codes[0].ndim != 1 or not 1 < codes[0].size <= MOST_NUMBERS:
        return []
    rows = torch.stack([torch.from_numpy(code) for code in codes])
    shown = torch.stack([factor.shown for factor in factors.values()], dim=1)
    cut = int(READ_SHARE * len(rows))
    found = dci(rows[:cut], shown[:cut], rows[cut:], shown[cut:], seed=seed)
    return [
        measurement(f"dci_{name}", value, images=len(rows), better="higher")
        for name, value in (
            ("disentanglement", found.disentanglement),
            ("completeness", found.completeness),
            ("informativeness", found.informativeness),
        )
    ]
