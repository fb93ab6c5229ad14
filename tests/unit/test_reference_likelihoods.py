"""What percentiles are read off: the estimator that serves, for requests that ask for it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model_store.evaluation import reference
from model_store.export.package import CATALOG, add_options
from model_store.manifest import read_manifest
from model_store.networks.opening import open_model
from model_store.recipes.reference import VAE_SETTINGS, held_out, reference_options
from model_store.store import Store
from services.core.images import Pixels
from services.core.network import OpenedModel
from services.core.pixels import to_tensor
from services.families.likelihood import comparable
from services.sampling.schedule import VariancePreserving
from tests.engines import ask, opened, ready, some_pixels
from tests.gaussian_data import GaussianData
from tests.tiny_models import tiny_diffusion, tiny_vae

ESTIMATES = 40


def repeated(image: Pixels) -> Tensor:
    """One image many times over, as recipes have images."""
    return to_tensor([image] * ESTIMATES, (-1.0, 1.0))


def served(model: OpenedModel, image: Pixels, **parameters: Any) -> list[float]:
    """What the engine says of the image, from other noise every time."""
    engine = ready(model)
    return [
        ask(engine, "likelihood", images=[image], seed=seed, **parameters)[0].values[
            "log_likelihood"
        ]
        for seed in range(ESTIMATES)
    ]


def assert_same_distribution(found: Tensor, expected: list[float]) -> None:
    mean, spread = float(np.mean(expected)), float(np.std(expected))
    error = spread * math.sqrt(2 / ESTIMATES)
    assert float(found.mean()) == pytest.approx(mean, abs=4 * error)
    assert float(found.std()) == pytest.approx(spread, rel=0.6)


def test_a_vaes_reference_is_the_bound_that_it_serves() -> None:
    image = some_pixels(1, 4, 4)
    found = reference.importance_weighted(
        tiny_vae(), repeated(image), samples=4, generator=torch.Generator().manual_seed(0)
    )
    assert_same_distribution(found, served(tiny_vae(), image, samples=4))


def test_a_latent_diffusions_reference_is_the_bound_that_it_serves() -> None:
    image = some_pixels(3, 8, 8)
    found = reference.variational_bound(
        tiny_diffusion(),
        repeated(image),
        steps=5,
        samples=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert_same_distribution(found, served(tiny_diffusion(), image, steps=5, samples=2))


def test_a_pixel_diffusions_reference_is_the_bound_that_it_serves() -> None:
    image, schedule = some_pixels(1, 4, 4), VariancePreserving()
    network = GaussianData(0.3, schedule).network((1, 4, 4), "epsilon")
    options = {"schedule": schedule.model_dump()}
    model = opened("diffusion", {"denoiser": network}, resolution=(4, 4), options=options)
    found = reference.variational_bound(
        model,
        repeated(image),
        steps=5,
        samples=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert_same_distribution(found, served(model, image, steps=5, samples=2))


@pytest.mark.parametrize("model_id", ["shapes-ldm", "digits-ddpm"])
def test_the_images_of_a_reference_are_as_many_as_asked_and_always_the_same(model_id: str) -> None:
    images = held_out(model_id, 200, torch.Generator().manual_seed(0))
    assert len(images) == 200
    assert images.abs().max() <= 1
    again = held_out(model_id, 200, torch.Generator().manual_seed(0))
    assert torch.equal(images, again)


def test_quantiles_are_even_and_end_at_the_extremes() -> None:
    values = torch.arange(1000.0).flip(0)
    found = reference.quantiles(values)
    assert len(found) == reference.QUANTILES
    assert found == sorted(found)
    assert (found[0], found[50], found[-1]) == (0.0, pytest.approx(499.5), 999.0)


def test_an_exported_model_gets_its_reference_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = tmp_path / "shapes-vae"
    shutil.copytree(CATALOG / "shapes-vae", folder)
    before = read_manifest(folder / "manifest.json")
    store = Store(tmp_path / "store", catalogs=[tmp_path])
    model = open_model(store, "shapes-vae", torch.device("cpu"), threads=1)
    add_options(folder, reference_options(model, count=6))
    after = read_manifest(folder / "manifest.json")
    kept = {"reference_log_likelihoods", "reference_settings"}
    assert after.model_copy(update={"options": {}}) == before.model_copy(update={"options": {}})
    assert {k: v for k, v in after.options.items() if k not in kept} == {
        k: v for k, v in before.options.items() if k not in kept
    }
    assert not Store(tmp_path / "store", catalogs=[tmp_path]).verify("shapes-vae")
    again = open_model(
        Store(tmp_path / "store", catalogs=[tmp_path]), "shapes-vae", torch.device("cpu"), threads=1
    )
    noise = ask(ready(again), "likelihood", images=[some_pixels(3, 32, 32)], **VAE_SETTINGS)[0]
    assert noise.values["percentile"] == 0
    assert noise.values["anomalous"] is True


def with_reference(model: OpenedModel, settings: dict[str, Any]) -> OpenedModel:
    quantiles = list(np.linspace(-1e6, 0, reference.QUANTILES))
    options = {
        **model.options,
        "reference_log_likelihoods": quantiles,
        "reference_settings": settings,
    }
    return replace(model, options=options)


@pytest.mark.parametrize(
    ("parameters", "placed"),
    [
        ({"steps": 4}, True),
        ({"steps": 4, "samples": 1}, True),
        ({"steps": 5}, False),
        ({}, False),
        ({"steps": 4, "prompt": "red"}, False),
        ({"steps": 4, "factors": {"color": "red"}}, False),
    ],
)
def test_a_bound_has_a_percentile_among_bounds_of_its_own_kind(
    parameters: dict[str, Any], placed: bool
) -> None:
    settings = {"method": "bound", "steps": 4, "prompt": ""}
    engine = ready(with_reference(tiny_diffusion(), settings))
    found = ask(engine, "likelihood", images=[some_pixels(3, 8, 8)], **parameters)[0].values
    assert (found["percentile"] is not None) == placed
    assert (found["anomalous"] is not None) == placed


@pytest.mark.parametrize(("samples", "placed"), [(8, True), (9, False)])
def test_a_vaes_percentile_needs_as_many_samples_as_the_reference(
    samples: int, placed: bool
) -> None:
    engine = ready(with_reference(tiny_vae(), {"samples": 8}))
    found = ask(engine, "likelihood", images=[some_pixels(1, 4, 4)], samples=samples)[0].values
    assert (found["percentile"] is not None) == placed


def test_a_reference_without_settings_holds_for_every_request() -> None:
    assert comparable([1.0, 2.0], {}, {"samples": 3}) == [1.0, 2.0]
    assert comparable(None, {"samples": 3}, {"samples": 3}) is None
