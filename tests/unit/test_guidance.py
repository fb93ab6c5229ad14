"""Guidance: every row by its own settings, and no branch that nobody needs."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from scipy import spatial
from torch import Tensor

from services.sampling.guidance import (
    Guidance,
    combine,
    cosine_similarity,
    dynamically_thresholded,
    first_branches,
    guide,
    rescaled,
)

ROWS = (
    Guidance(),
    Guidance(3.0),
    Guidance(0.0),
    Guidance(2.0, weights=(0.5, 0.75, -0.25)),
    Guidance(7.5, rescale=0.7),
    Guidance(1.0, weights=(0.25, 0.75)),
    Guidance(1.0, weights=(2.0, 1.5)),
    Guidance(4.0, weights=(2.0, -1.0, 1.0), rescale=1.0),
    Guidance(5.0, agreement=0.5),
)


def outputs_of(rows: tuple[Guidance, ...], seed: int = 0) -> list[Tensor]:
    """The branches of each row: ``[k, 2, 3, 3]``."""
    source = torch.Generator().manual_seed(seed)
    return [torch.randn((row.branches, 2, 3, 3), generator=source) for row in rows]


def test_only_what_has_a_say_is_evaluated() -> None:
    assert [row.branches for row in ROWS] == [1, 2, 2, 4, 2, 2, 3, 4, 2]
    assert [row.needs_unguided for row in (Guidance(1.0), Guidance(0.999))] == [False, True]
    assert Guidance(weights=(0.1, 0.2, 0.7)).branches == 3
    assert Guidance(weights=(0.5,)).branches == 2


def test_branches_stand_row_by_row() -> None:
    assert first_branches(ROWS) == [0, 1, 3, 5, 9, 11, 13, 16, 20]
    assert first_branches(()) == []


def test_a_mixed_batch_equals_the_formula_row_by_row() -> None:
    branches = outputs_of(ROWS)
    found, _ = combine(torch.cat(branches), ROWS)
    for row, given, result in zip(ROWS, branches, found, strict=True):
        if row.needs_unguided:
            *prompts, unguided = given.double()
        else:
            prompts, unguided = list(given.double()), torch.zeros(2, 3, 3).double()
        composed = unguided + sum(
            w * (c - unguided) for w, c in zip(row.weights, prompts, strict=True)
        )
        expected = unguided + row.scale * (composed - unguided)
        if row.rescale:
            theirs = rescale_noise_cfg(expected[None], composed[None], row.rescale)
            expected = theirs[0]
        assert torch.allclose(result.double(), expected, atol=1e-5)


def test_a_row_is_bitwise_the_same_in_every_company() -> None:
    branches = outputs_of(ROWS, seed=1)
    together, agreed = combine(torch.cat(branches), ROWS)
    backwards, agreed_backwards = combine(torch.cat(branches[::-1]), ROWS[::-1])
    for i, row in enumerate(ROWS):
        alone, agreed_alone = combine(branches[i], [row])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(alone[0], backwards[len(ROWS) - 1 - i])
        assert agreed_alone == [agreed[i]] == [agreed_backwards[len(ROWS) - 1 - i]]


def test_a_single_prompt_without_guidance_is_the_networks_own_output() -> None:
    branches = outputs_of(ROWS, seed=2)
    found, _ = combine(torch.cat(branches), ROWS)
    assert torch.equal(found[0], branches[0][0])


def test_combining_leaves_the_networks_output_as_it_was() -> None:
    outputs = torch.cat(outputs_of(ROWS))
    before = outputs.clone()
    combine(outputs, ROWS)
    assert torch.equal(outputs, before)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 5.0), (1.0, 2.0), (2.0, -1.0), (0.5, 3.5)])
def test_the_scale_runs_from_the_unguided_branch_through_the_conditional(
    scale: float, expected: float
) -> None:
    found = guide(torch.full((1, 1), 2.0), torch.full((1, 1), 5.0), torch.tensor([scale]))
    assert float(found) == expected


def test_guidance_is_in_force_from_the_start_of_its_interval_up_to_the_end() -> None:
    row = Guidance(3.0, interval=(0.25, 0.75), rescale=0.5)
    found = [row.at(share) for share in (0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 0.99)]
    assert [at.scale for at in found] == [1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0]
    assert [at.branches for at in found] == [1, 1, 2, 2, 2, 1, 1]
    assert row.at(0.5, agreed=True).branches == 1
    assert Guidance(3.0).at(0.999).scale == 3.0


def test_weights_that_need_the_unguided_branch_keep_it_outside_of_the_interval() -> None:
    assert Guidance(3.0, weights=(1.0, 1.0), interval=(0.5, 1.0)).at(0.0).branches == 3
    assert Guidance(3.0, weights=(0.5, 0.5), interval=(0.5, 1.0)).at(0.0).branches == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_is_that_of_diffusers(share: float) -> None:
    source = torch.Generator().manual_seed(3)
    guided = 4 * torch.randn((5, 3, 8, 8), generator=source) + 1
    conditional = torch.randn((5, 3, 8, 8), generator=source)
    theirs = rescale_noise_cfg(guided, conditional, share)
    for ours, m, expected in zip(guided, conditional, theirs, strict=True):
        assert torch.allclose(rescaled(ours, m, share), expected, atol=1e-5)


def test_full_rescaling_gives_the_conditional_outputs_spread() -> None:
    source = torch.Generator().manual_seed(4)
    guided, conditional = 9 * torch.randn((2, 64), generator=source)
    assert float(rescaled(guided, conditional, 1.0).std()) == pytest.approx(
        float(conditional.std()), rel=1e-5
    )


def test_an_output_without_spread_cannot_be_rescaled_and_stays() -> None:
    flat = torch.full((1, 2, 2), 3.0)
    assert torch.equal(rescaled(flat, torch.randn(1, 2, 2), 0.7), flat)
    assert torch.equal(rescaled(flat[:, :1, :1], flat[:, :1, :1], 1.0), flat[:, :1, :1])


def test_similarity_is_the_cosine() -> None:
    first, second = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(5))
    expected = 1 - spatial.distance.cosine(first.flatten().double(), second.flatten().double())
    assert cosine_similarity(first, second) == pytest.approx(expected, abs=1e-9)
    assert cosine_similarity(first, 2 * first) == pytest.approx(1.0)
    assert cosine_similarity(first, -first) == pytest.approx(-1.0)
    assert cosine_similarity(torch.zeros(3), torch.zeros(3)) == 1.0


def test_branches_agree_from_the_threshold_on_and_only_where_it_was_asked() -> None:
    near = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    far = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    asked, unasked = Guidance(2.0, agreement=0.9), Guidance(2.0)
    _, agreed = combine(torch.cat([near, far, near]), [asked, asked, unasked])
    assert agreed == [True, False, False]


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_thresholding_is_that_of_diffusers(percentile: float, spread: float) -> None:
    theirs = DDIMScheduler(
        thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1e9
    )
    images = spread * torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(6))
    expected = theirs._threshold_sample(images)
    for image, other in zip(images, expected, strict=True):
        found = dynamically_thresholded(image, percentile, (-1.0, 1.0))
        assert torch.allclose(found, other, atol=1e-6)
        assert float(found.abs().max()) <= 1 + 1e-6


def test_a_threshold_counts_from_the_middle_of_the_models_range() -> None:
    image = torch.randn((3, 8, 8), generator=torch.Generator().manual_seed(7))
    usual = dynamically_thresholded(image, 0.9, (-1.0, 1.0))
    bytes_ = dynamically_thresholded((image + 1) * 127.5, 0.9, (0.0, 255.0))
    assert torch.allclose(bytes_, (usual + 1) * 127.5, atol=1e-3)


def test_an_image_within_its_range_is_left_as_it_is() -> None:
    image = torch.linspace(-1, 1, 48).view(3, 4, 4)
    assert torch.allclose(dynamically_thresholded(image, 1.0, (-1.0, 1.0)), image, atol=1e-7)
