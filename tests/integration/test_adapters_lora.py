"""A LoRA by its name in a request is the LoRA fused into the weights, for its own rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from model_store.manifest import TorchOptions
from services.core.engine import Engine
from services.core.errors import InvalidParameter
from services.core.images import ImageLimits
from services.families import discover
from services.serving.store_source import StoreSource
from tests import tiny_adapters
from tests.adapter_bench import BASE, Bench
from tests.engines import CPU, call, some_pixels
from tests.pipeline_shelf import LATENTS, PIXELS, generator, ours

ASKED: dict[str, Any] = {"prompt": "a red cat on the moon", "guidance_scale": 5.0}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def engine(bench: Bench) -> Engine:
    return bench.engine()


@pytest.mark.parametrize(
    "scales",
    [{}, {"style": 1.0}, {"style": -0.4}, {"voice": 0.7}, {"voice": 0.5, "style": 0.8}],
    ids=str,
)
def test_a_lora_makes_the_image_of_the_pipeline_that_it_is_fused_into(
    bench: Bench, engine: Engine, scales: dict[str, float]
) -> None:
    uses = [{"name": name, "scale": scale} for name, scale in scales.items()]
    state, image = ours(engine, steps=4, seed=3, **ASKED, **({"adapters": uses} if uses else {}))
    pipeline = bench.fused(**scales)
    told = {"num_inference_steps": 4, **ASKED}
    latents = pipeline(generator=generator(3), output_type="latent", **told).images[0]
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    (wanted,) = pipeline(generator=generator(3), output_type="np", **told).images
    assert np.abs(image - wanted).max() <= PIXELS


def test_rows_of_one_batch_have_loras_of_their_own_and_stay_bitwise_what_they_are_alone(
    engine: Engine,
) -> None:
    """Latents after every step, of rows with guidance and without, with no LoRA, one and two."""
    asks: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2, "adapters": [{"name": "style", "scale": 0.8}]},
        {"seed": 3, "adapters": [{"name": "voice"}], "guidance_scale": 1.0},
        {"seed": 1, "guidance_scale": 1.0},
        {"seed": 4, "adapters": [{"name": "voice", "scale": 0.3}, {"name": "style"}]},
    ]
    jobs = [engine.jobs(call("generate", prompt="a cat", steps=3, **ask))[0] for ask in asks]
    together = engine.prepare(jobs)
    alone = [engine.prepare([job])[0] for job in jobs]
    for _ in range(3):
        engine.step(together)
        for trajectory in alone:
            engine.step([trajectory])
        for mixed, single in zip(together, alone, strict=True):
            assert torch.equal(mixed.x, single.x)
    assert len({trajectory.x.numpy().tobytes() for trajectory in alone}) == len(asks)


def test_where_batches_have_one_size_rows_with_loras_are_evaluated_apart(
    bench: Bench,
) -> None:
    """As they are where evaluations are compiled or recorded, which no hook would be called in."""
    options = TorchOptions(batch_buckets=[4])
    source = StoreSource(bench.store, threads=1, torch_options={BASE: options})
    model = source.open(BASE, CPU)
    engine = discover()[model.family](model, CPU, ImageLimits())
    engine.setup()
    asks: list[dict[str, Any]] = [{}, {"adapters": [{"name": "style", "scale": 0.8}]}, {}]
    jobs = [
        engine.jobs(call("generate", seed=seed, steps=2, **ASKED, **ask))[0]
        for seed, ask in enumerate(asks)
    ]
    together = engine.prepare(jobs)
    for _ in range(2):
        engine.step(together)
    for job, mixed in zip(jobs, together, strict=True):
        (single,) = engine.prepare([job])
        for _ in range(2):
            engine.step([single])
        assert torch.equal(mixed.x, single.x)
    wanted = bench.fused(style=0.8)(
        generator=generator(1), num_inference_steps=2, output_type="latent", **ASKED
    ).images[0]
    torch.testing.assert_close(together[1].x, wanted, atol=LATENTS, rtol=1e-4)


def test_an_edit_takes_loras_too(engine: Engine) -> None:
    what = {"images": [some_pixels(3, 16, 16)], "prompt": "a cat", "steps": 4, "strength": 0.5}
    plain, _ = ours(engine, "variation", **what)
    styled, _ = ours(engine, "variation", adapters=[{"name": "style"}], **what)
    unchanged, _ = ours(engine, "variation", adapters=[{"name": "style", "scale": 0.0}], **what)
    assert not torch.equal(plain, styled)
    assert torch.equal(plain, unchanged)


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ([{"name": "stile"}], "did you mean style"),
        ([{"name": "style"}, {"name": "style"}], "named twice"),
        ([{"name": "style", "scale": 5.0}], "less than or equal to 4"),
        ([{"name": f"x{i}"} for i in range(5)], "at most 4"),
        ([], "at least 1"),
        ([{"name": "style", "weight": 1.0}], "unknown field"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(
    engine: Engine, uses: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        engine.jobs(call("generate", prompt="a cat", adapters=uses))
    assert str(caught.value.param).startswith("adapters")


def test_a_model_lists_what_hangs_on_it_as_it_comes_and_goes(bench: Bench, engine: Engine) -> None:
    assert [adapter.name for adapter in engine.adapters()] == ["style", "voice"]
    changes = tiny_adapters.pairs(bench.pipeline.unet, ("conv_out",))
    bench.add("late", tiny_adapters.peft("unet", changes))
    assert [adapter.name for adapter in engine.adapters()] == ["late", "style", "voice"]
    ours(engine, prompt="a cat", steps=1, adapters=[{"name": "late"}])
    bench.store.adapters.remove("late")
    with pytest.raises(InvalidParameter, match="no adapter 'late'"):
        engine.jobs(call("generate", prompt="a cat", adapters=[{"name": "late"}]))
