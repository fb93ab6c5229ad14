"""Flows that find one value at each evaluation of the loop: samples of a MAF, densities of an IAF.

What they come to is compared with the same flow in one piece, whose determinant
`test_architectures` checks against autograd.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from model_store.architectures.autoregressive_flow import (
    IAF,
    MAF,
    IAFForwardStep,
    MAFInverseStep,
)
from model_store.export.package import CATALOG
from model_store.networks.opening import open_model
from model_store.recipes.digit_flows import held_out_draws
from model_store.store import Store
from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork
from services.core.images import decode
from services.core.network import OpenedModel, TensorSpec
from services.core.parameters import Latents
from services.core.pixels import from_bins
from services.families import discover
from services.runtime.cost import measure
from services.serving.in_process import InProcessBackend
from tests.engines import (
    CPU,
    RowByRow,
    ask,
    call,
    carry,
    floats,
    integers,
    opened,
    pixels_of,
    some_pixels,
)
from tests.engines import ready as opened_engine
from tests.tiny_models import Shelf

SHAPE = (1, 4, 4)
DIMS = 16
CONFIG = {"side": 4, "width": 20, "layers": 2}
EVALUATIONS = 2 * DIMS
STATE = {"state": floats(3, DIMS), "index": integers()}


def moved(module: nn.Module) -> nn.Module:
    """Away from the identity, by the same numbers for every class of the same layers."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def maf() -> tuple[OpenedModel, MAF]:
    whole, step = MAF(**CONFIG), MAFInverseStep(**CONFIG)
    step.load_state_dict(moved(whole).state_dict())

    def forward(x: Tensor) -> Mapping[str, Tensor]:
        z, log_det = whole(x)
        return {"z": z, "log_det": log_det}

    quick = RowByRow(forward, {"x": floats(*SHAPE)}, ["z", "log_det"])
    quick.outputs["z"] = floats(DIMS)
    return model("inverse_step", step.eval(), {"forward": quick}, "inverse_steps"), whole


def iaf() -> tuple[OpenedModel, IAF]:
    whole, step = IAF(**CONFIG), IAFForwardStep(**CONFIG)
    step.load_state_dict(moved(whole).state_dict())
    quick = RowByRow(lambda z: {"x": whole(z)}, {"z": floats(DIMS)}, ["x"])
    return model("forward_step", step.eval(), {"inverse": quick}, "forward_steps"), whole


def model(
    name: str, step: nn.Module, quick: dict[str, RowByRow], option: str, **options: Any
) -> OpenedModel:
    networks = {
        name: RowByRow(lambda **given: {"next_state": step(**given)}, STATE, ["next_state"]),
        **quick,
    }
    given = {"latent": {"shape": [DIMS]}, option: EVALUATIONS, **options}
    return opened("flow", networks, resolution=(4, 4), pixel_range=(0.0, 1.0), options=given)


BOTH = pytest.mark.parametrize("build", [maf, iaf])


def centers(pixels: np.ndarray) -> Tensor:
    return (torch.from_numpy(pixels).float() + 0.5)[None] / 256


@BOTH
def test_a_sample_is_the_flows(build: Any) -> None:
    found, whole = build()
    images = pixels_of(ask(opened_engine(found), "generate", n=3, seed=5, temperature=0.8))
    z = [0.8 * torch.randn(DIMS, generator=torch.Generator().manual_seed(5 + i)) for i in range(3)]
    with torch.no_grad():
        expected = from_bins(whole.inverse(torch.stack(z)), (0.0, 1.0))
    for image, wanted in zip(images, expected, strict=True):
        assert np.abs(image.astype(int) - wanted.astype(int)).max() <= 1


@BOTH
def test_a_likelihood_is_the_flows(build: Any) -> None:
    found, whole = build()
    engine = opened_engine(found)
    for seed in range(3):
        pixels = some_pixels(*SHAPE, seed=seed)
        values = ask(engine, "likelihood", images=[pixels])[0].values
        with torch.no_grad():
            z, log_det = whole.transform(centers(pixels))
        prior = float(stats.norm.logpdf(z.double().numpy()).sum())
        expected = float(log_det) + DIMS * math.log(1 / 256)
        assert values["terms"]["log_prior"] == pytest.approx(prior, rel=1e-4, abs=1e-3)
        assert values["terms"]["log_det"] == pytest.approx(expected, rel=1e-4, abs=1e-3)
        assert (values["kind"], values["samples"]) == ("exact", 1)


def test_each_place_within_the_bins_is_a_pass_of_its_own() -> None:
    """The same layers as a quick forward pass give the same estimate from the same draws."""
    found, whole = iaf()

    def forward(x: Tensor) -> Mapping[str, Tensor]:
        z, log_det = whole.transform(x)
        return {"z": z, "log_det": log_det}

    quick = RowByRow(forward, {"x": floats(*SHAPE)}, ["z", "log_det"])
    other = opened(
        "flow",
        {"forward": quick, "inverse": found.networks["inverse"]},
        resolution=(4, 4),
        pixel_range=(0.0, 1.0),
    )
    pixels = some_pixels(*SHAPE, seed=3)
    asked = {"images": [pixels], "samples": 3, "seed": 7}
    stepwise = ask(opened_engine(found), "likelihood", **asked)[0].values
    at_once = ask(opened_engine(other), "likelihood", **asked)[0].values
    assert stepwise["kind"] == at_once["kind"] == "estimate"
    for name in ("log_likelihood", "std_error"):
        assert stepwise[name] == pytest.approx(at_once[name], rel=1e-4, abs=1e-3)


@BOTH
def test_encoding_reconstructing_and_walking_come_back(build: Any) -> None:
    engine = opened_engine(build()[0])
    first, second = (some_pixels(*SHAPE, seed=s) for s in (1, 2))
    latents = ask(engine, "encode", images=[first])[0].values["latents"]
    assert Latents(**latents).array().shape == (DIMS,)
    (again,) = pixels_of(ask(engine, "generate", latents=latents))
    assert np.array_equal(again, first)
    assert np.array_equal(pixels_of(ask(engine, "reconstruct", images=[second]))[0], second)
    frames = pixels_of(ask(engine, "interpolate", images=[first, second], n=3))
    assert np.array_equal(frames[0], first)
    assert np.array_equal(frames[2], second)


@BOTH
def test_rows_share_every_evaluation_and_each_finds_one_value(build: Any) -> None:
    found, _ = build()
    engine = opened_engine(found)
    name = "generate" if "inverse_step" in found.networks else "encode"
    images = [some_pixels(*SHAPE, seed=s) for s in range(3)] if name == "encode" else []
    wanted = call(name, images=images, **({} if images else {"n": 3}))
    carry(engine, engine.jobs(wanted))
    step = "inverse_step" if name == "generate" else "forward_step"
    batches = found.networks[step].batches  # type: ignore[attr-defined]
    assert batches == [3] * EVALUATIONS


def mixed(engine: Engine) -> list[Any]:
    pixels = [some_pixels(*SHAPE, seed=s) for s in range(2)]
    calls = [
        call("generate", n=2, seed=3),
        call("likelihood", images=pixels),
        call("likelihood", images=pixels[:1], samples=2),
        call("encode", images=pixels),
        call("reconstruct", images=pixels[:1]),
        call("interpolate", images=pixels, n=2),
        call("interpolate", seeds=[1, 2], n=2),
    ]
    return [job for one in calls for job in engine.jobs(one)]


@BOTH
def test_every_row_is_the_same_in_any_company(build: Any) -> None:
    """Also beside rows that began at another time, which the network tells apart by their index."""
    engine = opened_engine(build()[0])
    jobs = mixed(engine)
    alone = [carry(engine, [job])[0] for job in jobs]
    early, late = engine.prepare(jobs[::2]), engine.prepare(jobs[1::2])
    for _ in range(5):
        run_step(engine, early)
    batch = [*early, *late]
    while any(not t.finished for t in batch):
        run_step(engine, batch)
    order = [*range(0, len(jobs), 2), *range(1, len(jobs), 2)]
    for place, trajectory in zip(order, batch, strict=True):
        (result,) = engine.decode([trajectory])
        assert dict(result.values) == dict(alone[place].values)
        if result.pixels is not None:
            assert np.array_equal(result.pixels, alone[place].pixels)


def run_step(engine: Engine, batch: list[Any]) -> None:
    flying = [t for t in batch if not t.finished]
    for kind in {t.workload.step for t in flying}:
        engine.step([t for t in flying if t.workload.step == kind])


def test_a_failed_evaluation_leaves_every_row_as_it_was() -> None:
    found, _ = iaf()
    engine = opened_engine(found)
    jobs = engine.jobs(call("likelihood", images=[some_pixels(*SHAPE)], samples=2, seed=4))
    expected = carry(engine, jobs)[0].values
    batch = engine.prepare(jobs)
    network = found.networks["forward_step"]
    whole = network._function  # type: ignore[attr-defined]
    failures = iter(range(1000))

    def sometimes(**given: Tensor) -> Mapping[str, Tensor]:
        if next(failures) % 3 == 0:
            raise RuntimeError("a fault")
        return whole(**given)

    network._function = sometimes  # type: ignore[attr-defined]
    while not batch[0].finished:
        before = batch[0].index
        try:
            engine.step(batch)
        except RuntimeError:
            assert batch[0].index == before
    assert engine.decode(batch)[0].values == expected


@BOTH
def test_costs_can_be_measured_by_the_rehearsal(build: Any) -> None:
    engine = opened_engine(build()[0])
    rehearsal = engine.rehearsal()
    assert measure(engine, rehearsal, Lock()) is not None
    steps = {engine.workload(job).step for job in mixed(engine)} - {None}
    assert steps == {engine.workload(job).step for job in rehearsal} - {None}


async def test_through_the_loop_a_sample_is_the_same_and_is_cancelled_between_values() -> None:
    found, _ = maf()
    expected = pixels_of(ask(opened_engine(found), "generate", n=4, seed=1))
    backend = InProcessBackend(Shelf({"maf": lambda: found}), discover())
    try:
        answer = await backend.run(call("generate", model="maf", n=4, seed=1))
        for item, wanted in zip(answer.items, expected, strict=True):
            assert item.image is not None
            assert np.array_equal(
                decode(item.image, (4, 4), 1, opened_engine(found).limits), wanted
            )
        step = found.networks["inverse_step"]
        step.batches.clear()  # type: ignore[attr-defined]
        cancelled = asyncio.create_task(backend.run(call("generate", model="maf", n=4)))
        while len(step.batches) < 3:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await backend.run(call("generate", model="maf", seed=9))
        # The other request's rows are not beside the last one's, which takes all of its own.
        assert step.batches[-1] == 1  # type: ignore[attr-defined]
        assert sum(step.batches) < 5 * EVALUATIONS  # type: ignore[attr-defined]
    finally:
        backend.close()


def test_one_direction_has_to_be_quick() -> None:
    found, _ = maf()
    both = {**found.options, "forward_steps": EVALUATIONS}
    with pytest.raises(InvalidManifest, match="one direction takes one step"):
        opened_engine(opened("flow", found.networks, resolution=(4, 4), options=both))


def test_states_of_another_shape_are_refused() -> None:
    found, _ = iaf()
    step = found.networks["forward_step"]
    for shape, reason in (((2, DIMS), "3, values"), ((3, 9), "finds 9 values; its images have 16")):
        step.inputs["state"] = TensorSpec(shape, torch.float32)  # type: ignore[index]
        with pytest.raises(InvalidNetwork, match=reason):
            opened_engine(found)


FLOWS = ["digits-glow", "digits-iaf", "digits-maf", "digits-nice", "digits-realnvp"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_the_catalogs_flows_undo_themselves_as_they_are_served(name: str, tmp_path: Any) -> None:
    """Encode and generate again, through either export, within what the card states."""
    store = Store(tmp_path, catalogs=(CATALOG,))
    x = held_out_draws()[:4]
    pixels = from_bins(x, (0.0, 1.0))
    for prefer in ("onnx", "safetensors"):
        engine = opened_engine(open_model(store, name, CPU, threads=1, prefer=prefer))
        encoded = ask(engine, "encode", images=pixels)
        for image, result in zip(pixels, encoded, strict=True):
            latents = result.values["latents"]
            (again,) = pixels_of(ask(engine, "generate", latents=latents))
            assert np.array_equal(again, image)
        judged = [r.values for r in ask(engine, "likelihood", images=pixels)]
        bits = float(np.mean([values["bits_per_dim"] for values in judged]))
        assert bits < engine.model.card["metrics"]["baseline_histogram_bits_per_dim"]
        assert all(values["percentile"] is not None for values in judged)
