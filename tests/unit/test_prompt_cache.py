"""Prompts are encoded once while there is room, and a remembered one makes the same image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from model_store.networks.adaptable import LoraWeights
from services.core.adaptation import ScaledLora
from services.core.engine import Engine
from services.core.images import Pixels
from services.families.diffusion.conditioning import Prompts
from services.families.diffusion.options import FromPrompt
from services.families.diffusion.prompt_cache import PromptCache
from services.families.diffusion.steering import Words
from services.runtime.loop import Loop
from services.runtime.metrics import RuntimeMetrics
from services.runtime.registry import LoadedModel
from tests.engines import RowByRow, ask, call, floats, opened, pixels_of, ready
from tests.scripted import PATIENCE

Told = dict[str, Tensor]


def told(value: float, count: int = 4) -> Told:
    """``4 count`` bytes."""
    return {"words": torch.full((count,), value)}


def test_what_is_known_is_not_made_again() -> None:
    cache = PromptCache(1000)
    first = cache.get("a", lambda: told(1.0))
    assert cache.get("a", lambda: told(2.0)) is first
    assert (cache.hits, cache.misses, cache.held_bytes) == (1, 1, 16)


def test_the_least_recently_used_leaves_and_the_bound_holds() -> None:
    cache = PromptCache(3 * 16)
    for name in "abc":
        cache.get(name, lambda: told(0.0))
    cache.get("a", lambda: told(0.0))
    cache.get("d", lambda: told(0.0))
    assert cache.held_bytes == 48
    before = cache.hits
    for name in "acd":
        cache.get(name, lambda: told(0.0))
    assert cache.hits == before + 3
    cache.get("b", lambda: told(0.0))
    assert cache.hits == before + 3


def test_what_is_too_large_or_fails_is_not_kept() -> None:
    cache = PromptCache(15)
    cache.get("a", lambda: told(1.0))
    assert (cache.held_bytes, cache.misses) == (0, 1)

    def fail() -> Told:
        raise ValueError("cannot be read")

    with pytest.raises(ValueError, match="cannot be read"):
        cache.get("b", fail)
    assert cache.get("b", lambda: told(1.0, 1))["words"].tolist() == [1.0]


class Letters:
    """A prompt encoder that counts letters, and the prompts that it was given."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        self.asked.append(f"{'-' if negative else ''}{prompt}")
        return {"words": torch.tensor([float(prompt.count(c)) for c in "abc"]).sin()}


class AdaptedLetters(Letters):
    """Reads as `Letters` does and notes the LoRAs that it was given."""

    version = ""

    def adapted(
        self, prompt: str, loras: Sequence[ScaledLora], *, negative: bool = False
    ) -> Mapping[str, Tensor]:
        return self(f"{prompt}+{loras[0].scale}", negative=negative)


def engine_with(encoder: Letters) -> Engine:
    def denoise(x: Tensor, t: Tensor, words: Tensor) -> Mapping[str, Tensor]:
        return {"prediction": torch.tanh(0.2 * (x + words.sum()) + t / 9000)}

    inputs = {"x": floats(1, 4, 4), "t": floats(), "words": floats(3)}
    model = opened(
        "diffusion",
        {"denoiser": RowByRow(denoise, inputs, ["prediction"])},
        resolution=(4, 4),
        options={
            "schedule": {"type": "variance_preserving"},
            "prediction_type": "sample",
            "conditioning": {"type": "prompt", "inputs": ["words"]},
        },
    )
    return ready(replace(model, open_prompt_encoder=lambda: encoder))


def image(engine: Engine, prompt: str) -> Pixels:
    return pixels_of(ask(engine, "generate", prompt=prompt, steps=3, seed=5))[0]


def test_a_remembered_prompt_gives_bitwise_the_same_image() -> None:
    encoder = Letters()
    engine = engine_with(encoder)
    first, other, again = (image(engine, prompt) for prompt in ("abba", "cab", "abba"))
    assert sorted(encoder.asked) == ["", "-", "abba", "cab"]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(image(engine_with(Letters()), "abba"), first)


def test_adapters_of_the_text_encoder_keep_their_prompts_apart() -> None:
    encoder = AdaptedLetters()
    found = Prompts(engine_with(encoder).model, FromPrompt(inputs=["words"]))
    found.open(RowByRow(lambda **_: {}, {"words": floats(3)}, []))
    encoder.asked.clear()
    voice = LoraWeights("voice", "digest", {"text_encoder": {}})
    style = LoraWeights("style", "another", {"denoiser": {}})
    loud, quiet = ScaledLora(voice, 0.8), ScaledLora(voice, 0.2)
    for loras in ((), (loud,), (), (loud,), (quiet,), (ScaledLora(style, 1.0),)):
        found.condition(Words("abc"), 1.0, loras)
    assert encoder.asked == ["abc", "abc+0.8", "abc+0.2"]


def test_hits_and_misses_are_counted_by_model() -> None:
    registry = CollectorRegistry()
    loop = Loop(Lock(), observer=RuntimeMetrics(registry))
    engine = engine_with(Letters())
    model = LoadedModel(engine, "1", ready=True)
    for prompt in ("abba", "abba", "cab"):
        jobs = engine.jobs(call("generate", prompt=prompt, steps=2, guidance_scale=1.0))
        for ticket in loop.submit(model, jobs):
            ticket.future.result(PATIENCE)
    loop.close()

    def total(outcome: str) -> float | None:
        labels = {"model": engine.model.id, "outcome": outcome}
        return registry.get_sample_value("atelier_prompt_cache_lookups_total", labels)

    # The empty prompt when the model was opened, two prompts, and the negative one.
    assert total("miss") == 4
    assert total("hit") == 3
