"""Imported folders judge images: by a bound, and by the probability-flow ODE with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_store.networks.opening import differentiable_networks, open_differentiable
from services.core.engine import Engine
from services.core.errors import InvalidParameter
from services.core.job import Job
from services.core.network import DifferentiableNetwork
from tests import tiny_pipelines
from tests.engines import CPU, call, some_pixels
from tests.pipeline_shelf import THREADS, Make, Shelf, generator

PIXELS: Make = tiny_pipelines.ddpm
LATENT: Make = tiny_pipelines.stable_diffusion


def gradients(shelf: Shelf, name: str) -> DifferentiableNetwork:
    return open_differentiable(shelf.store, name, "denoiser", CPU, threads=THREADS)


def test_products_are_those_of_the_pipelines_own_network(shelf: Shelf) -> None:
    pipeline, _ = shelf.get("ddpm", PIXELS)
    x = torch.randn((3, 3, 8, 8), generator=generator(1), requires_grad=True)
    t = torch.tensor([3.5, 400.0, 998.0])
    cotangent = torch.randn((3, 3, 8, 8), generator=generator(2))
    wanted = pipeline.unet(x, t).sample
    (product,) = torch.autograd.grad(wanted, x, cotangent)
    output, found = gradients(shelf, "ddpm").vjp(
        {"x": x.detach(), "t": t}, wrt="x", output="prediction", cotangent=cotangent
    )
    assert product.abs().max() > 0.01
    torch.testing.assert_close(output, wanted.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, product, atol=1e-5, rtol=1e-4)


def test_products_of_a_row_are_bitwise_the_same_in_any_company(shelf: Shelf) -> None:
    shelf.get("ddpm", PIXELS)
    network = gradients(shelf, "ddpm")
    x = torch.randn((11, 3, 8, 8), generator=generator(3))
    cotangent = torch.randn(x.shape, generator=generator(4))
    t = torch.linspace(0, 999, 11)

    def both(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {"x": x[rows], "t": t[rows]}
        return network.vjp(inputs, wrt="x", output="prediction", cotangent=cotangent[rows])

    together = both(slice(None))
    for i in (0, 7, 10):
        for one, all_of_them in zip(both(slice(i, i + 1)), together, strict=True):
            assert torch.equal(one[0], all_of_them[i])


def judged(engine: Engine, jobs: list[Job[Any]]) -> list[dict[str, Any]]:
    batch = engine.prepare(jobs)
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    return [dict(result.values) for result in engine.decode(batch)]


@pytest.mark.parametrize(("name", "make"), [("ddpm", PIXELS), ("sd", LATENT)])
@pytest.mark.parametrize(
    "how",
    [{"method": "ode", "steps": 2, "probes": 3}, {"method": "bound", "steps": 3, "samples": 2}],
    ids=["ode", "bound"],
)
def test_an_imported_folder_judges_images_the_same_in_any_company(
    shelf: Shelf, name: str, make: Make, how: dict[str, Any]
) -> None:
    pipeline, engine = shelf.get(name, make)
    side = engine.model.resolution[0]
    images = [some_pixels(3, side, side, seed=i) for i in range(3)]
    told = {"prompt": "a red cat"} if name == "sd" else {}
    jobs = engine.jobs(call("likelihood", images=images, seed=5, **how, **told))
    together = judged(engine, jobs)
    alone = [judged(engine, [job])[0] for job in jobs]
    assert together == alone
    kind = "estimate" if how["method"] == "ode" else "lower_bound"
    for values in together:
        assert values["kind"] == kind
        assert values["std_error"] > 0
        assert values["log_likelihood"] == pytest.approx(sum(values["terms"].values()), rel=1e-5)
        assert "reconstruction" in values["terms"]
        assert values["bits_per_dim"] > 0
    assert len({values["log_likelihood"] for values in together}) == 3
    assert engine.describe().limits["likelihood_methods"] == ["bound", "ode"]
    assert pipeline is not None


def test_what_is_assumed_of_the_decoder_is_said(shelf: Shelf) -> None:
    _, engine = shelf.get("sd", LATENT)
    assert any("assumed and not measured" in note for note in engine.describe().card["notes"])
    with pytest.raises(InvalidParameter, match="no labels"):
        engine.jobs(call("likelihood", images=[some_pixels(3, 16, 16)], label=1))


def test_only_the_denoiser_of_a_pipeline_has_gradients(shelf: Shelf) -> None:
    shelf.get("sd", LATENT)
    manifest = shelf.store.get("sd")
    assert set(differentiable_networks(shelf.store, manifest, CPU, threads=1)) == {"denoiser"}
