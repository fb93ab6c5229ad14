"""Every prompt has a defined answer: what the pipeline itself makes of it, or a refusal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from services.core.errors import InvalidParameter
from services.core.job import Answer
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.store_source import StoreSource
from tests import tiny_pipelines
from tests.engines import CPU, call
from tests.pipeline_shelf import THREADS, Shelf

READ: dict[str, str] = {
    "empty": "",
    "spaces": "  \n\t ",
    "emoji": "a \U0001f600",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd",
    "NUL": "a\0cat\0",
    "control characters": "a\x01\x02\x7f cat",
    "marks of the tokenizer": "<|endoftext|> a </s> cat",
}
REFUSED: dict[str, tuple[str, str]] = {
    "10,000 characters": ("a cat " * 1667, "at most 2000 characters"),
    "more than the model reads": ("a cat " * 300, "reads at most"),
    "half a character": ("a \ud83d cat", "unicode"),
}
MODELS = {"sd": tiny_pipelines.stable_diffusion, "pixart": tiny_pipelines.pixart}
CASES = ["sd", pytest.param("pixart", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", CASES)
def test_odd_prompts_are_read_as_the_pipeline_reads_them(shelf: Shelf, name: str) -> None:
    pipeline, engine = shelf.get(name, MODELS[name])
    encoder = engine.model.prompt_encoder()
    for what, prompt in READ.items():
        (job,) = engine.jobs(call("generate", prompt=prompt, steps=1))
        found = encoder(job.parameters.prompt)["encoder_hidden_states"]
        with torch.no_grad():
            wanted = pipeline.encode_prompt(
                prompt, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False
            )[0][0]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5, msg=what)


@pytest.mark.parametrize("name", CASES)
def test_every_prompt_is_answered_by_an_image_or_a_refusal(shelf: Shelf, name: str) -> None:
    shelf.get(name, MODELS[name])
    backend = InProcessBackend(
        StoreSource(shelf.store, threads=THREADS),
        discover(),
        settings=PoolSettings(drain_seconds=0.0),
    )
    prompts = [*READ.values(), *(prompt for prompt, _ in REFUSED.values())]

    async def answers() -> list[Any]:
        calls = [
            call("generate", model=name, prompt=prompt, steps=1, guidance_scale=1.0)
            for prompt in prompts
        ]
        return await asyncio.gather(*(backend.run(one) for one in calls), return_exceptions=True)

    try:
        found = asyncio.run(answers())
    finally:
        backend.close()
    for what, answer in zip(READ, found, strict=False):
        assert isinstance(answer, Answer), (what, answer)
        assert answer.items[0].image
    for (what, (_, words)), answer in zip(REFUSED.items(), found[len(READ) :], strict=True):
        assert isinstance(answer, InvalidParameter), (what, answer)
        assert words in answer.message
        assert answer.param == "prompt"
