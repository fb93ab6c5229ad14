"""Codes written one after another: prefixes, caches, draws, likelihoods, edits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from services.core.errors import EngineFailure, InvalidManifest, InvalidNetwork, InvalidParameter
from services.core.parameters import Latents
from services.core.residuals import residual_bits
from tests.engines import ask, call, carry, evaluated, pixels_of, ready, some_pixels
from tests.tiny_autoregressive import CODES, SIDE, tiny_autoregressive, tiny_transformer

LENGTH = SIDE * SIDE
PROMPT = "a red circle"
TOKENS = torch.tensor([[1, 1]])
FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance_scale": 1.0}


@pytest.fixture
def engine():
    return ready(tiny_autoregressive())


def codes_of(engine, *images, **what):
    found = [Latents(**r.values["latents"]).array() for r in ask(engine, "encode", images=images)]
    return torch.from_numpy(np.stack(found)).long().flatten(1)


def written(engine, name="generate", **what):
    """The codes of one row."""
    (row,) = engine.prepare(engine.jobs(call(name, **what)))
    while not row.finished:
        engine.step([row])
    return row.x


def without_cache(told, codes):
    """Log-probabilities of codes by one pass of the whole sequence, in double precision."""
    with torch.no_grad():
        logits = tiny_transformer().double().sequence(told, codes)
    return logits.log_softmax(dim=2).gather(2, codes[..., None])[..., 0]


def test_the_likelihood_is_that_of_a_pass_without_cache(engine):
    images = [some_pixels(3, 8, 8, seed=seed) for seed in range(3)]
    codes = codes_of(engine, *images)
    for prompt, told in (("", torch.zeros(1, 2).long()), (PROMPT, TOKENS)):
        expected = without_cache(told.expand(3, -1), codes).sum(dim=1)
        found = ask(engine, "likelihood", images=images, prompt=prompt)
        for result, nats in zip(found, expected.tolist(), strict=True):
            assert result.values["log_likelihood"] == pytest.approx(nats, abs=1e-4)
            assert result.values["terms"] == {"codes_4x4": result.values["log_likelihood"]}
            bits = -nats / LENGTH / np.log(2)
            assert result.values["bits_per_dim"] == pytest.approx(bits, abs=1e-5)
            assert result.values["kind"] == "exact"


def test_all_sequences_of_two_codes_share_one_unit_of_probability():
    """Exact means normalised: over every continuation of a prefix the probabilities sum to one."""
    start = torch.zeros(CODES * CODES, LENGTH, dtype=torch.int64)
    start[:, 0] = torch.arange(CODES).repeat_interleave(CODES)
    start[:, 1] = torch.arange(CODES).repeat(CODES)
    two = without_cache(TOKENS.expand(len(start), -1), start)[:, :2].sum(dim=1)
    assert two.exp().sum().item() == pytest.approx(1.0)


def test_draws_follow_the_transformer_and_its_guidance(engine):
    """The first code of many seeds, against the distribution that a pass without cache gives."""
    scale, count = 1.7, 120
    what = {"prompt": PROMPT, **FREE, "guidance_scale": scale}
    jobs = [
        job
        for i in range(0, count, 60)
        for job in engine.jobs(call("generate", seed=i, n=60, **what))
    ]
    batch = engine.prepare(jobs)
    for _ in range(2):
        engine.step(batch)
    drawn = torch.stack([row.x[0] for row in batch]).bincount(minlength=CODES) / count
    with torch.no_grad():
        network, zeros = tiny_transformer(), torch.zeros(1, LENGTH, dtype=torch.int64)
        told = network.sequence(TOKENS, zeros)[0, 0]
        untold = network.sequence(torch.zeros(1, 2).long(), zeros)[0, 0]
    expected = (untold + scale * (told - untold)).softmax(dim=0)
    assert (drawn - expected).abs().max() < 0.12
    assert (expected - told.softmax(dim=0)).abs().max() > 0.1


def test_greedy_codes_are_those_of_a_pass_without_cache(engine):
    codes = written(engine, prompt=PROMPT, top_k=1, guidance_scale=1.0)
    with torch.no_grad():
        logits = tiny_transformer().sequence(TOKENS, codes[None])[0]
    assert torch.equal(logits.argmax(dim=1), codes)


def test_rows_at_every_prefix_length_step_together_and_stay_as_they_are_alone(engine):
    """Each row joins one evaluation after the last: guided, unguided, judged and kept ones."""
    image, mask = some_pixels(3, 8, 8), np.zeros((1, 8, 8), np.uint8)
    mask[0, 2:4] = 255
    jobs = [
        *engine.jobs(call("generate", prompt=PROMPT, seed=1, guidance_scale=2.0)),
        *engine.jobs(call("generate", seed=2, temperature=0.7)),
        *engine.jobs(call("likelihood", images=[image], prompt=PROMPT)),
        *engine.jobs(call("inpaint", images=[image], mask=mask, seed=3, top_k=3)),
        *engine.jobs(call("generate", prompt="a blue square", seed=4, top_p=0.5)),
    ]
    alone = carry(engine, jobs[:1]) + [carry(engine, [job])[0] for job in jobs[1:]]
    waiting, flying, rows = list(jobs), [], []
    evaluated(engine, "transformer").clear()
    while waiting or any(not row.finished for row in rows):
        if waiting:
            rows += engine.prepare([waiting.pop(0)])
        flying = [row for row in rows if not row.finished]
        engine.step(flying)
    assert max(evaluated(engine, "transformer")) == len(jobs) + 1
    for row, expected in zip(rows, alone, strict=True):
        (found,) = engine.decode([row])
        assert found.values == expected.values
        assert found.pixels is expected.pixels or np.array_equal(found.pixels, expected.pixels)


def test_a_row_costs_two_only_where_it_is_guided(engine):
    def rows(**what):
        return engine.workload(engine.jobs(call("generate", **what))[0]).rows

    assert rows(prompt=PROMPT, guidance_scale=3.0) == 2
    assert rows(prompt=PROMPT, guidance_scale=1.0) == 1
    assert rows(guidance_scale=3.0) == 1


def test_a_step_that_fails_leaves_every_row_as_it_was(engine):
    rows = engine.prepare(engine.jobs(call("generate", prompt=PROMPT, n=2, seed=5)))
    for _ in range(4):
        engine.step(rows)
    before = [(row.x.clone(), row.cache.clone(), row.index) for row in rows]
    rows[1].cache = torch.full_like(rows[1].cache, float("nan"))
    with pytest.raises(EngineFailure):
        engine.step(rows)
    assert torch.equal(rows[0].x, before[0][0])
    assert torch.equal(rows[0].cache, before[0][1])
    assert rows[0].index == before[0][2]
    rows[1].cache = before[1][1]
    while not rows[0].finished:
        engine.step(rows)
    alone = written(engine, prompt=PROMPT, seed=5), written(engine, prompt=PROMPT, seed=6)
    assert torch.equal(torch.stack([row.x for row in rows]), torch.stack(alone))


def test_what_a_cache_holds_at_a_rows_position_or_later_has_no_effect():
    network = tiny_transformer()
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(1, 2, 2, network.positions, 8, generator=generator)
    other = cache.clone()
    other[:, :, :, 5:] = 100.0
    inputs = torch.tensor([3]), torch.tensor([5]), TOKENS
    with torch.no_grad():
        for first, second in zip(network(*inputs, cache), network(*inputs, other), strict=True):
            assert torch.equal(first, second)


def test_codes_travel_there_and_back(engine):
    image = some_pixels(3, 8, 8)
    (encoded,) = ask(engine, "encode", images=[image])
    assert encoded.values["kind"] == "codes"
    assert encoded.values["latents"]["shape"] == [SIDE, SIDE]
    again = ask(engine, "generate", latents=encoded.values["latents"])
    rebuilt = ask(engine, "reconstruct", images=[image])
    assert np.array_equal(pixels_of(again)[0], pixels_of(rebuilt)[0])


@pytest.mark.parametrize("value", [-1.0, float(CODES), 0.5])
def test_latents_that_are_no_codes_are_refused(engine, value):
    codes = np.full((SIDE, SIDE), value, np.float32)
    with pytest.raises(InvalidParameter, match="whole numbers from 0 to 5") as caught:
        ask(engine, "generate", latents=Latents.from_array(codes).model_dump())
    assert caught.value.param == "latents"


def test_inpainting_keeps_pixels_and_codes_outside_the_mask(engine):
    image, mask = some_pixels(3, 8, 8), np.zeros((1, 8, 8), np.uint8)
    mask[0, 3:5, 2:4] = 255  # two cells, one above the other
    what = {"images": [image], "mask": mask, "seed": 7, "prompt": PROMPT}
    job = engine.jobs(call("inpaint", **what))[0]
    assert engine.workload(job).evaluations == 2 + 9  # two words, and codes up to the tenth
    codes, given = written(engine, "inpaint", **what), codes_of(engine, image)[0]
    kept = torch.ones(LENGTH, dtype=torch.bool)
    kept[[5, 9]] = False
    assert torch.equal(codes[kept], given[kept])
    (made,) = pixels_of(ask(engine, "inpaint", **what))
    assert np.array_equal(made[:, mask[0] == 0], image[:, mask[0] == 0])
    others = {
        tuple(written(engine, "inpaint", **{**what, "seed": s})[~kept].tolist()) for s in range(8)
    }
    assert len(others) > 1


def test_previews_show_what_is_written_so_far(engine):
    (row,) = engine.prepare(engine.jobs(call("generate", prompt=PROMPT, seed=1)))
    assert np.array_equal(engine.preview(row), np.full((3, SIDE, SIDE), 128, np.uint8))
    for _ in range(2 + 4):
        engine.step([row])
    shown = engine.preview(row).reshape(3, LENGTH)
    assert (shown[:, 5:] == 128).all()
    assert (shown[:, :5] != 128).any()


def test_unknown_words_and_labels_are_refused_by_name(engine):
    with pytest.raises(InvalidParameter, match="does not know the word 'mauve'"):
        engine.jobs(call("generate", prompt="a mauve circle"))
    with pytest.raises(InvalidParameter, match="has no labels"):
        engine.jobs(call("generate", label="red"))
    labeled = ready(tiny_autoregressive("label"))
    with pytest.raises(InvalidParameter, match="takes a label, no prompt"):
        labeled.jobs(call("generate", prompt="red"))
    with pytest.raises(InvalidParameter, match="did you mean green"):
        labeled.jobs(call("likelihood", images=[some_pixels(3, 8, 8)], label="gren"))
    told_nothing = ready(tiny_autoregressive("none"))
    with pytest.raises(InvalidParameter, match="takes no prompt"):
        told_nothing.jobs(call("generate", prompt="red"))


def test_what_a_prompt_leaves_open_is_drawn_and_told_back():
    vocabulary = {
        "slots": {"color": {"values": ["red", "green"]}, "shape": {"values": ["circle", "square"]}},
        "caption": "a {color} {shape}",
    }
    engine = ready(tiny_autoregressive(tokenizer=vocabulary))
    told = {
        ask(engine, "generate", prompt="red", seed=s)[0].values["revised_prompt"] for s in range(6)
    }
    assert told == {"a red circle", "a red square"}
    assert "revised_prompt" not in ask(engine, "generate", prompt="red square")[0].values


def test_a_percentile_is_told_only_of_codes_that_were_told_nothing():
    engine = ready(tiny_autoregressive(reference_log_likelihoods=[-200.0, -100.0, 0.0]))
    image = some_pixels(3, 8, 8)
    assert ask(engine, "likelihood", images=[image])[0].values["percentile"] is not None
    assert ask(engine, "likelihood", images=[image], prompt="red")[0].values["percentile"] is None


def test_a_likelihood_is_corrected_by_what_its_codes_leave_out():
    engine = ready(tiny_autoregressive(reference_corrected_bits_per_dim=[-9.0, 0.0, 9.0]))
    image = some_pixels(3, 8, 8)
    told, untold = (
        ask(engine, "likelihood", images=[image], **said)[0].values
        for said in ({"prompt": "red"}, {})
    )
    (again,) = ask(engine, "reconstruct", images=[image])
    assert untold["residual_bits_per_dim"] * image.size == pytest.approx(
        residual_bits(image, again.pixels)
    )
    bits = -untold["log_likelihood"] / math.log(2) / image.size
    expected = bits + untold["residual_bits_per_dim"] - untold["complexity_bits_per_dim"]
    assert untold["corrected_bits_per_dim"] == pytest.approx(expected)
    assert 0 < untold["corrected_percentile"] < 100
    assert told["corrected_percentile"] is None


def test_interpolation_is_refused_with_the_reason(engine):
    assert "discrete codes" in engine.refusal("interpolate")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"levels": [{"shape": [2, 2]}]}, "must be 8 to 4096 codes"),
        ({"labels": ["red"]}, "either a tokenizer or labels"),
        ({"codes": 1}, "codes"),
        ({"defaults": {"temperature": 0}}, "temperature"),
    ],
)
def test_options_that_cannot_be_are_refused(options, reason):
    with pytest.raises(InvalidManifest, match=reason):
        ready(tiny_autoregressive(**options))


@pytest.mark.parametrize("options", [{"codes": 7}, {"levels": [{"shape": [4, 5]}]}])
def test_networks_that_do_not_fit_the_options_are_refused(options):
    with pytest.raises(InvalidNetwork, match="the options of 'tiny-autoregressive' ask for"):
        ready(tiny_autoregressive(**options))
