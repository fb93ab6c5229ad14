"""Inversion by descent: the right gradient, the right optimiser, one loop with everything else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_store.networks.binding import Declared
from model_store.networks.differentiable import DifferentiableExport
from model_store.networks.image_layout import Frame
from model_store.networks.signatures import SIGNATURES
from model_store.networks.torch_graph import TorchGraph, module_inputs
from services.core.engine import Engine
from services.core.errors import UnsupportedTask
from services.core.images import Pixels
from services.core.job import Call, Preview, Progress, RowFinished, Watch
from services.core.network import OpenedModel
from services.core.parameters import Latents
from services.core.pixels import to_tensor
from services.families import discover
from services.families.stylegan.inversion import LEARNING_RATE, Inversion
from services.families.stylegan.pyramid import SCALES, pyramid_loss
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.engines import CPU, ask, call, carry, pixels_of, ready, some_pixels
from tests.tiny_models import Shelf
from tests.tiny_stylegan import SIDE, D, Z, style_networks, tiny_stylegan, without

MAPPING, STYLES, SYNTHESIS = style_networks()
LAYERS, K = len(SYNTHESIS.style_channels), SYNTHESIS.noise_size
PATIENCE = 120.0


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ready(tiny_stylegan())


def own_image(engine: Engine) -> Pixels:
    """An image that the generator can make: somewhere there are latents to be found."""
    return pixels_of(ask(engine, "generate", seed=3, noise_strength=0))[0]


def values(engine: Engine, image: Pixels, **what: Any) -> dict[str, Any]:
    (result,) = ask(engine, "invert", images=[image], **what)
    return dict(result.values)


def test_the_loss_and_its_gradient_are_those_of_autograd() -> None:
    source = torch.Generator().manual_seed(0)
    image, target = torch.randn(2, 3, 16, 16, generator=source).double()
    variable = image.clone().requires_grad_()
    expected = sum(
        (nn.functional.avg_pool2d(variable - target, side) ** 2).mean() for side in SCALES
    )
    expected.backward()
    loss, gradient = pyramid_loss(image, target)
    assert loss == pytest.approx(expected.item())
    assert variable.grad is not None
    assert torch.allclose(gradient, variable.grad)


def test_scales_that_do_not_divide_the_image_are_left_out() -> None:
    image = torch.ones(1, 6, 4)
    assert pyramid_loss(image, torch.zeros_like(image))[0] == 2.0  # seen at 1 and at 2


def test_a_descent_is_that_of_torchs_adam() -> None:
    """On the whole chain of networks, with a rate that falls along half a cosine."""
    engine, steps = ready(without(tiny_stylegan(), "encoder")), 6
    image = some_pixels(3, SIDE, SIDE)
    target = to_tensor([image], (-1, 1))[0]
    spread = engine.networks.spread_of_w()  # type: ignore[attr-defined]  # of this family
    w = engine.spaces.mean.expand(LAYERS, -1).clone().requires_grad_()  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam([w])
    path = []
    for step in range(steps):
        path.append(w.detach().clone())
        optimizer.param_groups[0]["lr"] = (
            LEARNING_RATE * spread * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        difference = SYNTHESIS(STYLES(w[None]), torch.zeros(1, K))[0] - target
        loss = sum((nn.functional.avg_pool2d(difference, side) ** 2).mean() for side in SCALES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (row,) = engine.prepare(engine.jobs(call("invert", images=[image], steps=steps)))
    for expected in path:
        assert torch.allclose(row.x, expected, atol=1e-4)
        engine.step([row])
    assert row.finished


def test_latents_are_found_whose_image_is_the_one_given(engine: Engine) -> None:
    """From the mean of w; what a seed made can be found again."""
    blind = ready(without(tiny_stylegan(), "encoder"))
    image = own_image(engine)
    first, last = (values(blind, image, steps=steps)["psnr"] for steps in (1, 150))
    assert last > first + 10, (first, last)


def test_more_steps_are_never_worse_and_one_is_what_the_encoder_found(engine: Engine) -> None:
    image = some_pixels(3, SIDE, SIDE)
    (encoded,) = ask(engine, "encode", images=[image])
    found = [values(engine, image, steps=steps) for steps in (1, 10, 40)]
    assert found[0]["latents"] == encoded.values["latents"]
    assert found[0]["psnr"] < found[1]["psnr"] < found[2]["psnr"]


def test_what_was_found_can_be_generated_again_and_edited(engine: Engine) -> None:
    image = some_pixels(3, SIDE, SIDE)
    (found,) = ask(engine, "invert", images=[image], steps=5)
    latents = {"latents": found.values["latents"], "latent_space": found.values["latent_space"]}
    assert np.array_equal(pixels_of(ask(engine, "generate", **latents))[0], found.pixels)
    edits = {"attributes": {"size": 2.0}, "channels": {"6": -0.5}}
    (at_once,) = ask(engine, "invert", images=[image], steps=5, **edits)
    assert np.array_equal(
        pixels_of(ask(engine, "attribute", **latents, **edits))[0], at_once.pixels
    )
    assert not np.array_equal(at_once.pixels, found.pixels)
    assert at_once.values == found.values  # the latents and their likeness are those before


def test_likeness_is_that_of_the_image_handed_out(engine: Engine) -> None:
    image = some_pixels(3, SIDE, SIDE)
    (found,) = ask(engine, "invert", images=[image], steps=4)
    error = np.square(found.pixels.astype(float) - image).mean()
    assert found.values["psnr"] == pytest.approx(10 * math.log10(255**2 / error))


def test_a_perfect_likeness_has_no_number(engine: Engine) -> None:
    """Decibels of no error at all are infinite, which JSON cannot say."""
    (encoded,) = ask(engine, "encode", images=[some_pixels(3, SIDE, SIDE)])
    (row,) = engine.prepare(engine.jobs(call("invert", images=[own_image(engine)], steps=1)))
    assert isinstance(row, Inversion)
    drawn = pixels_of(ask(engine, "generate", latents=encoded.values["latents"]))[0]
    job = replace(row.job, images=(drawn,))
    (again,) = engine.prepare([job])
    assert isinstance(again, Inversion)
    again.descent = replace(again.descent, best=row_of(encoded.values["latents"]))
    assert engine.decode([again])[0].values["psnr"] is None


def row_of(latents: dict[str, Any]) -> Tensor:
    return torch.from_numpy(Latents.model_validate(latents).array().copy())


def test_rows_of_any_number_of_steps_descend_together_as_alone(engine: Engine) -> None:
    jobs = [
        job
        for seed, steps in ((0, 2), (1, 7), (2, 4))
        for job in engine.jobs(
            call("invert", images=[some_pixels(3, SIDE, SIDE, seed=seed)], steps=steps)
        )
    ]
    for job, together in zip(jobs, carry(engine, jobs), strict=True):
        (alone,) = carry(engine, [job])
        assert np.array_equal(alone.pixels, together.pixels)
        assert alone.values == together.values


def test_a_failed_evaluation_leaves_its_rows_as_they_were(engine: Engine) -> None:
    """The loop tries each row again by itself: a hostile neighbour leaves no trace."""
    good, bad = engine.prepare(
        engine.jobs(call("invert", images=[some_pixels(3, SIDE, SIDE, seed=s) for s in (0, 1)]))
    )
    bad.x = torch.full_like(bad.x, torch.nan)
    before = good.x.clone()
    with pytest.raises(Exception, match="not finite"):
        engine.step([good, bad])
    assert torch.equal(good.x, before)
    assert good.index == 0


def test_an_onnx_graph_alone_cannot_be_inverted() -> None:
    engine = ready(replace(tiny_stylegan(), gradients={}))
    assert "invert" not in engine.operations()
    with pytest.raises(UnsupportedTask, match="safetensors export"):
        engine.jobs(call("invert", images=[some_pixels(3, SIDE, SIDE)]))


@pytest.fixture
def backend() -> Iterator[InProcessBackend]:
    shelf = Shelf({"tiny-stylegan": tiny_stylegan})
    found = InProcessBackend(shelf, discover(), settings=PoolSettings(drain_seconds=0.0))
    yield found
    found.close()


def invert(**what: Any) -> Call:
    return call("invert", model="tiny-stylegan", images=[some_pixels(3, SIDE, SIDE)], **what)


def test_a_descent_tells_each_step_and_shows_what_it_has(backend: InProcessBackend) -> None:
    async def watched() -> list[Any]:
        found = backend.stream(invert(steps=6), Watch(preview_every=2))
        return [event async for event in found]

    events = asyncio.run(asyncio.wait_for(watched(), PATIENCE))
    told = [event for event in events if isinstance(event, Progress)]
    assert told
    assert {event.steps for event in told} == {6}
    assert any(isinstance(event, Preview) for event in events)
    (finished,) = (event for event in events if isinstance(event, RowFinished))
    answer = asyncio.run(asyncio.wait_for(backend.run(invert(steps=6)), PATIENCE))
    assert finished.item == answer.items[0]


def test_a_descent_that_nobody_waits_for_ends(backend: InProcessBackend) -> None:
    async def left() -> None:
        found = backend.stream(invert(steps=500), Watch())
        async for event in found:
            if isinstance(event, Progress):
                break
        await found.aclose()
        while backend.loop.status().trajectories:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(left(), PATIENCE))
    done = backend.loop.status().evaluations["tiny-stylegan/step"]
    assert done < 500


def exported(name: str, module: nn.Module, **shapes: tuple[int, ...]) -> DifferentiableExport:
    """A module as a store opens it for gradients, rows probed."""
    signature = SIGNATURES["stylegan", name]
    inputs = module_inputs(module, signature, shapes)
    graph = TorchGraph(module, name=name, inputs=inputs, device=CPU, threads=1)
    network = DifferentiableExport(graph, Declared(name, Frame(3, SIDE, SIDE), signature), CPU)
    network.probe()
    return network


def on_torch() -> OpenedModel:
    """The same weights run by what runs safetensors exports, batched for real."""
    mapping, styles, synthesis = (m.requires_grad_(False) for m in style_networks())
    s = sum(SYNTHESIS.style_channels)
    found = {
        "mapping": exported("mapping", mapping, z=(Z,)),
        "styles": exported("styles", styles, w=(LAYERS, D)),
        "synthesis": exported("synthesis", synthesis, s=(s,), noise=(K,)),
    }
    gradients = {name: lambda network=network: network for name, network in found.items()}
    return replace(tiny_stylegan(), networks=found, gradients=gradients)


def test_the_networks_of_a_store_descend_as_the_promise_has_it() -> None:
    engine = ready(on_torch())
    images = [some_pixels(3, SIDE, SIDE, seed=seed) for seed in range(3)]
    jobs = engine.jobs(call("invert", images=images, steps=5))
    rows = carry(engine, jobs)
    reference = ready(without(tiny_stylegan(), "encoder"))
    for job, row in zip(jobs, rows, strict=True):
        (alone,) = carry(engine, [job])
        assert np.array_equal(alone.pixels, row.pixels)
        assert alone.values == row.values
        (expected,) = carry(reference, [job])
        assert row.values["psnr"] == pytest.approx(expected.values["psnr"], abs=0.1)
