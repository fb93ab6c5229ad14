"""Textual inversion: a prompt with a registered word is read as diffusers reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.adapters.addition import add_adapter
from model_store.addition import add_model
from model_store.store import Store
from services.core.engine import Engine
from services.core.errors import InvalidNetwork, InvalidParameter
from services.core.images import ImageLimits
from services.families import discover
from services.serving.store_source import StoreSource
from tests import tiny_adapters, tiny_pipelines
from tests.adapter_bench import BASE, Bench
from tests.engines import CPU, call
from tests.pipeline_shelf import LATENTS, generator, ours

ASKED: dict[str, Any] = {"prompt": "a <blob> cat on the moon", "guidance_scale": 5.0}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def engine(bench: Bench) -> Engine:
    return bench.engine()


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, tiny_pipelines.WIDTH), generator=generator(seed))


def theirs(pipeline: Any, **asked: Any) -> torch.Tensor:
    found: torch.Tensor = pipeline(
        generator=generator(3), num_inference_steps=3, output_type="latent", **asked
    ).images[0]
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_is_read_as_diffusers_reads_it_and_only_while_it_is_registered(
    bench: Bench, engine: Engine, count: int
) -> None:
    before, _ = ours(engine, steps=3, seed=3, **ASKED)
    plain, _ = ours(engine, steps=3, seed=3, prompt="a red cat", guidance_scale=5.0)
    bench.add("blob", {"<blob>": vectors(count)})
    bench.add("ink", {"<ink>": vectors(2, seed=1)})
    state, _ = ours(engine, steps=3, seed=3, **ASKED)
    beside, _ = ours(engine, steps=3, seed=3, prompt="a red cat", guidance_scale=5.0)
    pipeline = bench.fused()
    pipeline.load_textual_inversion({"<blob>": vectors(count)})
    pipeline.load_textual_inversion({"<ink>": vectors(2, seed=1)})
    torch.testing.assert_close(state, theirs(pipeline, **ASKED), atol=LATENTS, rtol=1e-4)
    assert not torch.equal(state, before)
    assert torch.equal(beside, plain)
    for name in ("blob", "ink"):
        bench.store.adapters.remove(name)
    after, _ = ours(engine, steps=3, seed=3, **ASKED)
    assert torch.equal(after, before)


def test_a_word_counts_as_many_tokens_as_it_has_vectors(bench: Bench, engine: Engine) -> None:
    bench.add("long", {"<long>": vectors(15)})
    (job,) = engine.jobs(call("generate", prompt="a <long> cat", steps=1))
    with pytest.raises(InvalidParameter, match="reads at most 16"):
        engine.prepare([job])
    bench.store.adapters.remove("long")


@pytest.mark.parametrize(
    ("tensors", "options", "said"),
    [
        ({"<blob>": torch.zeros(2, 8)}, {}, r"takes \[n, 16\]"),
        ({"<blob>": torch.full((1, 16), torch.nan)}, {}, "not finite"),
        ({"cat</w>": torch.zeros(1, 16)}, {}, "own vocabulary"),
        ({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 16)}, {}, "under its word"),
        ({"<blob>": torch.zeros(65, 16)}, {}, "up to 64"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    bench: Bench, tensors: dict[str, torch.Tensor], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidNetwork, match=said):
        bench.add("odd", tensors, **options)
    assert not bench.store.adapters.holds("odd")


def test_a_word_belongs_to_one_adapter_and_is_not_named_among_loras(
    bench: Bench, engine: Engine
) -> None:
    bench.add("first", {"emb_params": vectors(2)}, token="<mine>")
    with pytest.raises(InvalidNetwork, match="word of 'first'"):
        bench.add("second", {"<mine>_1": vectors(1)})
    with pytest.raises(InvalidParameter, match="write its word '<mine>' in the prompt"):
        engine.jobs(call("generate", prompt="a cat", adapters=[{"name": "first"}]))
    bench.store.adapters.remove("first")


@pytest.mark.slow
def test_sdxl_reads_a_word_with_both_of_its_text_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pipeline = tiny_pipelines.stable_diffusion_xl(tmp_path / BASE)
    store = Store(tmp_path / "store", catalogs=())
    add_model(store, tmp_path / BASE, threads=1)
    tensors = {"clip_l": vectors(2), "clip_g": vectors(2, seed=1)}
    path = tiny_adapters.saved(tensors, tmp_path / "word.safetensors")
    add_adapter(store, path, base=BASE, name="word", token="<blob>", threads=1)
    model = StoreSource(store, threads=1).open(BASE, CPU)
    engine = discover()[model.family](model, CPU, ImageLimits())
    engine.setup()
    state, _ = ours(engine, steps=3, seed=3, **ASKED)
    pipeline.register_modules(tokenizer_2=copy.deepcopy(pipeline.tokenizer_2))  # it has one of both
    for key, ending in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            tensors[key],
            token="<blob>",
            tokenizer=getattr(pipeline, f"tokenizer{ending}"),
            text_encoder=getattr(pipeline, f"text_encoder{ending}"),
        )
    torch.testing.assert_close(state, theirs(pipeline, **ASKED), atol=LATENTS, rtol=1e-4)
