"""A row of every imported architecture shows nothing of its company: bitwise, by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from model_store.manifest import TorchOptions
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.opening import open_model
from services.core.engine import Engine
from services.core.images import ImageLimits
from services.core.trajectory import Trajectory
from tests import tiny_pipelines
from tests.engines import CPU, call
from tests.pipeline_shelf import THREADS, Make, Shelf

TEXT: tuple[dict[str, Any], ...] = (
    {"prompt": "a red cat", "steps": 4},
    {"prompt": "a dog", "steps": 2, "guidance_scale": 1.0, "n": 2},
    {"prompt": "the moon", "negative_prompt": "ugly", "steps": 3, "sampler": "dpmpp_2m"},
    {"steps": 3, "sampler": "euler_ancestral", "guidance_scale": 9.0, "guidance_rescale": 0.7},
    {"prompt": "a blue dog", "steps": 2, "sampler": "heun", "guidance_interval": [0.3, 0.9]},
    {"prompt": "a cat on the moon", "steps": 4, "sampler": "lms", "n": 3},
)
ONE_BRANCH: tuple[dict[str, Any], ...] = (
    {"prompt": "a red cat", "steps": 4},
    {"prompt": "a dog", "steps": 2, "guidance_scale": 7.0, "n": 2},
    {"prompt": "the moon", "steps": 3, "sampler": "dpmpp_2m"},
    {"steps": 3, "sampler": "euler_ancestral"},
    {"prompt": "a blue dog", "steps": 2, "sampler": "heun", "n": 5},
)
LABELS: tuple[dict[str, Any], ...] = (
    {"label": 1, "steps": 4, "guidance_scale": 4.0},
    {"label": "cat", "steps": 3, "guidance_scale": 1.0, "sampler": "dpmpp_2m", "n": 3},
    {"steps": 2, "sampler": "euler_ancestral"},
    {"label": 999, "steps": 2, "sampler": "heun", "n": 4},
)
NOTHING: tuple[dict[str, Any], ...] = (
    {"steps": 5},
    {"steps": 3, "sampler": "ddim", "n": 4},
    {"steps": 4, "sampler": "dpmpp_2m", "sigma_schedule": "karras"},
    {"steps": 2, "sampler": "heun", "n": 4},
)
EVERY: dict[str, tuple[Make, Sequence[dict[str, Any]]]] = {
    "ddpm": (tiny_pipelines.ddpm, NOTHING),
    "sd": (tiny_pipelines.stable_diffusion, TEXT),
    "sdxl": (tiny_pipelines.stable_diffusion_xl, TEXT),
    "sd3": (tiny_pipelines.stable_diffusion_3, TEXT),
    "flux": (tiny_pipelines.flux, ONE_BRANCH),
    "pixart": (tiny_pipelines.pixart, TEXT),
    "dit": (tiny_pipelines.dit, LABELS),
}
SMALL = {"ddpm", "sd"}
ARCHITECTURES = [
    pytest.param(name, marks=[] if name in SMALL else [pytest.mark.slow]) for name in EVERY
]


def images(engine: Engine, batch: Sequence[Trajectory]) -> list[np.ndarray[Any, Any]]:
    """What rows come to that step and are decoded together as long as they go."""
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    found = [result.pixels for result in engine.decode(batch)]
    return [pixels for pixels in found if pixels is not None]


def started(engine: Engine, asks: Sequence[dict[str, Any]]) -> list[Trajectory]:
    """The rows of several calls, prepared in one batch."""
    jobs = [
        job
        for seed, told in enumerate(asks)
        for job in engine.jobs(call("generate", seed=seed, **told))
    ]
    return engine.prepare(jobs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_is_bitwise_the_same_alone_and_in_a_mixed_batch(shelf: Shelf, name: str) -> None:
    make, asks = EVERY[name]
    _, engine = shelf.get(name, make)
    together = started(engine, asks)
    alone = started(engine, asks)
    mixed = images(engine, together)
    single = [images(engine, [row])[0] for row in alone]
    for row, one, first, other in zip(alone, together, single, mixed, strict=True):
        assert torch.equal(row.x, one.x)
        assert np.array_equal(first, other)
    assert len({image.tobytes() for image in mixed}) == len(mixed) > 8


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_runs_at_one_batch_size(shelf: Shelf, name: str) -> None:
    """Kernels are chosen by shape: at one shape there is nothing to choose between."""
    _, engine = shelf.get(name, EVERY[name][0])
    for network in engine.model.networks.values():
        assert isinstance(network, ExportedNetwork)
        assert network.plan.least == network.plan.most
        rows = network.random_rows(64)
        among = network(**rows)
        alone = network(**{key: value[63:] for key, value in rows.items()})
        for output, values in among.items():
            assert torch.equal(values[63:], alone[output])


def test_without_determinism_batches_go_in_as_they_come_and_images_stay_close(
    shelf: Shelf,
) -> None:
    make, asks = EVERY["sd"]
    _, engine = shelf.get("sd", make)
    model = open_model(
        shelf.store, "sd", CPU, threads=THREADS, overrides=TorchOptions(deterministic=False)
    )
    denoiser = model.networks["denoiser"]
    assert isinstance(denoiser, ExportedNetwork)
    assert (denoiser.plan.least, denoiser.plan.most) == (1, 64)
    loose = type(engine)(model, CPU, ImageLimits())
    loose.setup()
    expected = images(engine, started(engine, asks))
    found = images(loose, started(loose, asks))
    for wanted, image in zip(expected, found, strict=True):
        assert np.abs(wanted.astype(int) - image.astype(int)).max() <= 1
