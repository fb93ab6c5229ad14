"""A large latent is decoded in tiles, between other rows' evaluations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_store.networks.component_opening import tile_of
from services.core.engine import Engine
from services.core.job import Job
from services.core.network import OpenedModel
from services.core.trajectory import Trajectory, Workload
from services.families.diffusion.tiling import Tiling, tiling_of
from services.runtime.cost import measure
from services.runtime.loop import Loop
from services.runtime.ticket import Ticket
from tests import tiny_pipelines
from tests.engines import RowByRow, call, carry, floats, pixels_of, ready
from tests.scripted import PATIENCE, Gate, ScriptedEngine, scripted, work
from tests.tiny_models import seeded, tiny_diffusion

SHAPES = [
    ((8, 8), (4, 4)),
    ((9, 7), (4, 4)),
    ((16, 4), (4, 4)),
    ((13, 11), (5, 8)),
    ((4, 4), (4, 4)),
]


@pytest.mark.parametrize(("size", "tile"), SHAPES)
def test_tiles_cover_a_latent_and_overlap(size: tuple[int, int], tile: tuple[int, int]) -> None:
    tiling = Tiling(size, tile)
    seen = torch.zeros(size)
    for top, left in tiling.places:
        assert top + tile[0] <= size[0]
        assert left + tile[1] <= size[1]
        seen[top : top + tile[0], left : left + tile[1]] += 1
    assert seen.min() >= 1
    for axis in (0, 1):
        starts = sorted({place[axis] for place in tiling.places})
        assert all(later - earlier < tile[axis] for earlier, later in pairwise(starts))


@pytest.mark.parametrize(("size", "tile"), SHAPES)
def test_what_decodes_each_place_by_itself_is_decoded_exactly(
    size: tuple[int, int], tile: tuple[int, int]
) -> None:
    """A decoder that looks nowhere else cannot tell a tile from the whole."""
    decoder = seeded(lambda: nn.ConvTranspose2d(3, 2, 2, stride=2))
    x = torch.randn(3, *size)
    tiling = Tiling(size, tile)
    with torch.no_grad():
        parts = [decoder(tiling.cut(x, i)[None])[0] for i in range(len(tiling.places))]
        whole = decoder(x[None])[0]
    torch.testing.assert_close(tiling.blend(parts), whole)


def test_seams_are_blended() -> None:
    """Two tiles that disagree meet in a ramp: no step is larger than one of the ramp's."""
    tiling = Tiling((8, 14), (8, 8))
    assert tiling.places == ((0, 0), (0, 6))
    image = tiling.blend([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    row = image[0, 0]
    assert (row[0], row[-1]) == (0.0, 1.0)
    assert (row.diff() >= 0).all()
    assert row.diff().max() <= 0.5 + 1e-6


def test_as_near_to_the_whole_as_diffusers_own_tiles(tmp_path: Path) -> None:
    """On a real autoencoder, whose tiles cannot see each other."""
    with torch.random.fork_rng(devices=[]):
        tiny_pipelines.seed(7)
        vae: Any = tiny_pipelines.autoencoder(sample_size=16).eval()
        z = torch.randn(1, 4, 14, 14)
    with torch.no_grad():
        whole = vae.decode(z).sample[0]
        tiling = Tiling((14, 14), (8, 8))
        parts = [vae.decode(tiling.cut(z[0], i)[None]).sample[0] for i in range(4)]
        assert isinstance(vae, diffusers.AutoencoderKL)
        vae.enable_tiling()
        theirs = vae.decode(z).sample[0]
    ours = (tiling.blend(parts) - whole).square().mean()
    assert 0 < ours <= 1.5 * (theirs - whole).square().mean()


@pytest.mark.parametrize(
    ("latent", "decoder", "expected"),
    [
        ((4, 8, 8), (4, 8, 8), None),
        ((4, 8, 8), (4, None, None), None),
        ((4, 8, 8), (3, 4, 4), None),
        ((4, 8, 8), (4, 16, 4), None),
        ((4, 8, 8), (4, 4, 4), Tiling((8, 8), (4, 4))),
    ],
)
def test_a_decoder_that_takes_less_is_given_tiles(
    latent: tuple[int, ...], decoder: tuple[int | None, ...], expected: Tiling | None
) -> None:
    assert tiling_of(latent, decoder) == expected


def test_small_latents_are_decoded_whole() -> None:
    assert tile_of([4, 64, 128], 128) == [4, 64, 128]
    assert tile_of([4, 256, 64], 128) == [4, 128, 64]


# --- the engine -----------------------------------------------------------------------------


def tiled_model() -> OpenedModel:
    """The tiny latent diffusion with a decoder that takes 3 x 3 latents of 4 x 4 at once."""
    model = tiny_diffusion()
    whole = model.networks["decoder"]
    assert isinstance(whole, RowByRow)
    tiles = RowByRow(whole._function, {"z": floats(2, 3, 3)}, ["image"])
    return replace(model, networks={**model.networks, "decoder": tiles})


def job(engine: Engine, **changes: Any) -> Job[Any]:
    return engine.jobs(call("generate", prompt="a red circle", steps=2, **changes))[0]


def test_tiles_make_the_image_that_the_whole_makes() -> None:
    """Its decoder looks nowhere else, so rounding to 8 bits leaves nothing of the difference."""
    tiled, whole = ready(tiled_model()), ready(tiny_diffusion())
    assert tiled.workload(job(tiled)).slices == 4
    assert whole.workload(job(whole)).slices == 0
    images = pixels_of([*carry(tiled, [job(tiled)]), *carry(whole, [job(whole)])])
    assert np.array_equal(*images)


def test_slices_and_the_rest_at_once_are_bitwise_the_same() -> None:
    engine = ready(tiled_model())
    flights = engine.prepare([job(engine, seed=seed) for seed in (1, 2)])
    while not flights[0].finished:
        engine.step(flights)
    at_once = pixels_of(engine.decode(flights))
    engine.decode_slice(flights)
    engine.decode_slice(flights[:1])
    assert [t.slices_left for t in flights] == [2, 3]
    engine.decode_slice(flights)  # rows at different places of their ways share a batch
    later = pixels_of(engine.decode(flights))
    assert all(np.array_equal(*pair) for pair in zip(at_once, later, strict=True))


def test_a_slice_that_fails_leaves_every_row_as_it_was() -> None:
    engine = ready(tiled_model())
    flights = engine.prepare([job(engine)])
    decoder: Any = engine.model.networks["decoder"]
    function = decoder._function

    def fail(**_: Tensor) -> Mapping[str, Tensor]:
        raise RuntimeError("no")

    decoder._function = fail
    with pytest.raises(RuntimeError):
        engine.decode_slice(flights)
    decoder._function = function
    assert flights[0].parts == []


def test_slices_are_measured_apart() -> None:
    engine = ready(tiled_model())
    costs = measure(engine, engine.rehearsal(), Lock())
    assert costs.curve("slice", "image").points.keys() >= {1}


# --- the loop -------------------------------------------------------------------------------


class SlicedEngine(ScriptedEngine):
    """Images of jobs named ``big`` are decoded in `SLICES` slices."""

    SLICES = 6

    def workload(self, job: Job[Any]) -> Workload:
        load = super().workload(job)
        return replace(load, slices=self.SLICES if job.id.startswith("big") else 0)

    def decode_slice(self, batch: list[Trajectory]) -> None:
        self._begin("slice", [t.job.id for t in batch])
        for t in batch:
            t.parts.append(t.x)


def test_a_big_decode_never_holds_up_a_more_urgent_row() -> None:
    """One that comes during a slice is evaluated right after it, whatever is left of the decode."""
    gate = Gate("slice")
    engine = SlicedEngine(gate)
    loop, model = Loop(Lock()), scripted(engine, seconds=0.01)
    now = time.monotonic()  # both have time; the small ones come first by their deadlines
    (big,) = loop.submit(model, [work("big", steps=1, deadline=now + 10_000)])
    gate.wait()
    tickets: list[Ticket] = []
    for number in range(SlicedEngine.SLICES - 1):
        name = f"small-{number}"
        tickets += loop.submit(model, [work(name, steps=1, deadline=now + 1000)])
        begun = len(engine.batches)
        gate.advance()
        between = engine.batches[begun:]
        assert ("step", (name,)) in between
        assert [stage for stage, _ in between].count("slice") == 1
    gate.open()
    for ticket in [big, *tickets]:
        ticket.future.result(PATIENCE)
    loop.close()
    assert len(engine.stages("slice")) == SlicedEngine.SLICES
    assert engine.stages("decode")[-1] == ("big",)


def test_rows_go_on_between_the_slices_of_a_neighbour() -> None:
    """Many slices and many steps: neither waits for the other's end."""
    engine = SlicedEngine()
    loop, model = Loop(Lock()), scripted(engine, knee=1)
    jobs = [work("big", steps=1), work("small", steps=40)]
    tickets = [loop.submit(model, [one])[0] for one in jobs]
    for ticket in tickets:
        ticket.future.result(PATIENCE)
    assert loop.status().queue_seconds == 0
    loop.close()
    assert len(engine.stages("slice")) == SlicedEngine.SLICES
    assert len([ids for ids in engine.stages("step") if "small" in ids]) == 40


def test_a_withdrawn_row_is_decoded_no_further() -> None:
    gate = Gate("slice")
    engine = SlicedEngine(gate)
    loop = Loop(Lock())
    (big,) = loop.submit(scripted(engine), [work("big", steps=1)])
    gate.wait()
    loop.withdraw([big])
    gate.open()
    assert big.future.exception(PATIENCE) is not None
    loop.close()
    assert len(engine.stages("slice")) == 1


def test_timings_count_slices_as_decoding() -> None:
    loop = Loop(Lock())
    (big,) = loop.submit(scripted(SlicedEngine()), [work("big", steps=1)])
    timings = big.future.result(PATIENCE).timings
    loop.close()
    assert timings.decode > 0
    assert big.remaining_slices == SlicedEngine.SLICES  # its trajectory is let go
