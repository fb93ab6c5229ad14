"""Guidance: every row by its own scale, and no branch that nobody needs."""

from __future__ import annotations

import pytest
import torch

from services.sampling.guidance import branch_rows, combine, guide, is_guided

SCALES = (1.0, 3.0, 0.0, 1.0, 7.5, 1.0)


def test_only_a_scale_of_one_needs_no_second_branch() -> None:
    assert [is_guided(scale) for scale in (1.0, 0.0, 0.999, 7.5)] == [False, True, True, True]


def test_branches_of_guided_rows_follow_the_others_in_order() -> None:
    assert branch_rows(SCALES) == ([1, 2, 4], [6, 7, 8])
    assert branch_rows((1.0, 1.0)) == ([], [])


def test_combining_a_mixed_batch_equals_the_formula_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    conditional, unconditional = torch.randn((2, len(SCALES), 3, 4, 4), generator=generator)
    guided, _ = branch_rows(SCALES)
    found = combine(torch.cat([conditional, unconditional[guided]]), SCALES)
    for row, scale in enumerate(SCALES):
        expected = (1 - scale) * unconditional[row] + scale * conditional[row]
        assert torch.allclose(found[row], expected, atol=1e-5)
    for row in (0, 3, 5):
        assert torch.equal(found[row], conditional[row])


def test_a_row_is_bitwise_the_same_in_every_company() -> None:
    generator = torch.Generator().manual_seed(1)
    conditional, unconditional = torch.randn((2, len(SCALES), 2, 3, 3), generator=generator)
    guided, _ = branch_rows(SCALES)
    together = combine(torch.cat([conditional, unconditional[guided]]), SCALES)
    for row, scale in enumerate(SCALES):
        branches = [conditional[row : row + 1]]
        branches += [unconditional[row : row + 1]] if is_guided(scale) else []
        assert torch.equal(combine(torch.cat(branches), [scale])[0], together[row])


def test_combining_leaves_the_networks_output_as_it_was() -> None:
    outputs = torch.arange(6.0).view(3, 2)
    before = outputs.clone()
    combine(outputs, [2.0, 1.0])
    assert torch.equal(outputs, before)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 5.0), (1.0, 2.0), (2.0, -1.0), (0.5, 3.5)])
def test_the_scale_runs_from_the_unconditional_branch_through_the_conditional(
    scale: float, expected: float
) -> None:
    found = guide(torch.full((1, 1), 2.0), torch.full((1, 1), 5.0), torch.tensor([scale]))
    assert float(found) == expected
