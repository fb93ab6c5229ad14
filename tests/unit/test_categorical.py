"""Drawing tokens, against the filters of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.sampling.categorical import filtered, guided, pick

LOGITS = 3 * torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).double()


def column(value, dtype=torch.float64):
    return torch.full((len(LOGITS),), value, dtype=dtype)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 5, 24, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35, 1e-6])
def test_the_filters_are_those_of_transformers(temperature, top_k, top_p):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(len(LOGITS), 1, dtype=torch.int64), LOGITS).softmax(dim=1)
    found = filtered(LOGITS, column(temperature), column(top_k, torch.int64), column(top_p))
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_rows_with_settings_of_their_own_are_bitwise_what_they_are_alone():
    generator = torch.Generator().manual_seed(1)
    count = len(LOGITS)
    temperature = 0.2 + 2 * torch.rand(count, generator=generator)
    top_k = torch.randint(0, 10, (count,), generator=generator)
    top_p = 0.1 + 0.9 * torch.rand(count, generator=generator)
    together = filtered(LOGITS, temperature, top_k, top_p)
    for i in range(count):
        row = slice(i, i + 1)
        alone = filtered(LOGITS[row], temperature[row], top_k[row], top_p[row])
        assert torch.equal(alone[0], together[i])


def test_tokens_that_tie_with_the_last_of_the_likeliest_stay():
    logits = torch.tensor([[1.0, 0.0, 0.0, -1.0]])
    found = filtered(logits, torch.ones(1), torch.tensor([2]), torch.ones(1))
    assert (found > 0).tolist() == [[True, True, True, False]]


def test_draws_follow_their_probabilities_and_never_take_what_was_ruled_out():
    probabilities = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]]).double().expand(20_000, -1)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(2)).double()
    share = pick(probabilities, uniform).bincount(minlength=6) / 20_000
    torch.testing.assert_close(share.double(), probabilities[0], atol=0.015, rtol=0)
    assert share[[0, 2, 5]].sum() == 0
    ends = torch.tensor([0.0, 1.0 - 2**-53]).double()
    assert pick(probabilities[:2], ends).tolist() == [1, 4]


def test_guidance_at_scale_one_is_the_condition_and_at_zero_is_none():
    told, untold = LOGITS[:2], LOGITS[2:4]
    found = guided(told, untold, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, torch.stack([told[0], untold[1]]))
