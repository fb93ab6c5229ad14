"""What the recipes of autoencoders measure and write, with networks of a few numbers."""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model_store.recipes import digit_autoencoders as autoencoders
from model_store.recipes import digits_hvae, shapes_beta_vae
from model_store.recipes.digits_denoising_ae import RECIPE
from services.sampling.bounds import kl_to_standard_normal
from tests.engines import RowByRow, ask, floats, opened, ready


def test_noise_has_the_strength_that_the_card_names() -> None:
    gray = torch.zeros(50, 1, 8, 8)
    seen = autoencoders.noisy(gray, 48.0, torch.Generator().manual_seed(0))
    steps = (seen - gray) * 127.5
    assert float(steps.std()) == pytest.approx(48, rel=0.03)
    assert torch.allclose((seen + 1) * 127.5, ((seen + 1) * 127.5).round(), atol=1e-3)
    black = autoencoders.noisy(gray - 1, 48.0, torch.Generator().manual_seed(0))
    assert float(black.min()) == -1


def test_standardised_codes_have_unit_spread_and_leave_images_as_they_were() -> None:
    network = autoencoders.Autoencoder(replace(RECIPE, code=3, hidden=(8,))).eval()
    images = autoencoders.images_of("train", seed=3)
    before = copy.deepcopy(network)(images)
    autoencoders.standardize(network)
    with torch.no_grad():
        codes = network.encoder(images)
        assert torch.allclose(codes.mean(0), torch.zeros(3), atol=1e-4)
        assert torch.allclose(codes.std(0), torch.ones(3), atol=1e-4)
        assert torch.allclose(network(images), before, atol=1e-5)


def options(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(
        minutes=0.002, workspace=folder, fresh=False, export_only=False, threads=1
    )


def test_a_card_measures_the_noise_before_and_after(tmp_path: Path) -> None:
    recipe = replace(RECIPE, code=3, hidden=(8,))
    network, summary = autoencoders.train(recipe, options(tmp_path))
    found = autoencoders.package(network, recipe, summary)
    numbers = found.metrics
    # Of 48 in 255 without any clamping: 20 log10(255 / 48); digits are mostly black, which clamps.
    assert 14.5 < numbers["noisy_psnr_db"] < 18
    assert numbers["denoised_psnr_db"] < numbers["reconstruction_psnr_db"] + 0.5
    assert found.options["noise"]["std"] == 48
    assert [network.name for network in found.networks] == ["deterministic_encoder", "decoder"]


def test_a_hierarchical_vaes_bounds_are_those_that_the_service_gives(tmp_path: Path) -> None:
    config = {"latents": [2, 2, 3], "width": 8, "dropout": 0.0}
    model = digits_hvae.train("one", config, options(tmp_path)).model
    scale = [float(v) for v in model.scale.detach().flatten()]

    def encode(image: Tensor, noise: Tensor) -> dict[str, Tensor]:
        found = model.ladder.infer(image, noise)
        return dict(zip(("z", "mean", "log_variance"), found, strict=True))

    def decode(z: Tensor) -> dict[str, Tensor]:
        return {"image": model.ladder.decode(z)}

    inputs = {"image": floats(1, 8, 8), "noise": floats(7)}
    networks = {
        "hierarchical_encoder": RowByRow(encode, inputs, ["z", "mean", "log_variance"]),
        "decoder": RowByRow(decode, {"z": floats(7)}, ["image"]),
    }
    options_of = {"levels": [2, 2, 3], "observation": {"scale": scale}}
    engine = ready(opened("vae", networks, resolution=(8, 8), options=options_of))
    image = np.full((1, 8, 8), 90, np.uint8)
    terms = ask(engine, "likelihood", images=[image], samples=100)[0].values["terms"]
    with torch.no_grad():
        pixels = (torch.from_numpy(image)[None] / 127.5 - 1).expand(4000, -1, -1, -1)
        noise = torch.randn(4000, 7, generator=torch.Generator().manual_seed(0))
        nats, kl, weights = model.terms(pixels, noise)
    elbo, spread = float((nats - kl.sum(1)).mean()), float(weights.std())
    assert terms["elbo"] == pytest.approx(elbo, abs=5 * spread / 100**0.5)
    assert float(weights.mean()) == pytest.approx(elbo, abs=8 * spread / 4000**0.5)
    for level in range(3):
        expected = float(kl[:, level].mean())
        assert terms[f"kl_level_{level + 1}"] == pytest.approx(expected, rel=0.15, abs=0.1)


def test_both_vaes_of_a_comparison_start_from_the_same_weights_and_differ_in_beta() -> None:
    first, second = shapes_beta_vae.Autoencoder(8.0), shapes_beta_vae.Autoencoder(1.0)
    first, second = first.double(), second.double()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, shapes_beta_vae.LATENT, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        kl = kl_to_standard_normal(*first.encoder(images)).mean()
        apart = first.loss(images, noise, 1.0) - second.loss(images, noise, 1.0)
        by_latent = shapes_beta_vae.nats_by_latent(*first.encoder(images))
    assert float(apart) == pytest.approx(float(7 * kl) * shapes_beta_vae.LOSS_SCALE, rel=1e-3)
    assert float(by_latent.sum()) == pytest.approx(float(kl), rel=1e-4)
