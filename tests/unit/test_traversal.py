"""Strips along one number of a latent: which values, which number, and what is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.families.traversal import LatentTraversal


def test_values_lie_evenly_over_the_range_both_ends_included() -> None:
    assert LatentTraversal(n=3).strip() == [-2.0, 0.0, 2.0]
    assert LatentTraversal(n=5, range=[1, 0]).strip() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_given_values_are_taken_in_their_order_one_image_each() -> None:
    asked = LatentTraversal(values=[3, -1, -1])
    assert asked.strip() == [3, -1, -1]
    assert asked.rows(images=0) == 3


@pytest.mark.parametrize("beside", [{"n": 3}, {"range": [0, 1]}])
def test_values_and_a_range_together_are_refused(beside: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="give either values, or range and n"):
        LatentTraversal(values=[1.0], **beside)


@pytest.mark.parametrize(
    "bad", [{"values": []}, {"range": [1]}, {"values": [float("nan")]}, {"values": [1e9]}, {"n": 1}]
)
def test_impossible_strips_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LatentTraversal(**bad)


def test_one_number_changes_and_the_latent_given_stays_as_it_was() -> None:
    latent = torch.arange(6.0).view(2, 3)
    moved = LatentTraversal(values=[9.0], latent_index=4).moved(latent, 0)
    assert moved.tolist() == [[0, 1, 2], [3, 9, 5]]
    assert latent[1, 1] == 4


def test_a_latent_that_is_laid_out_otherwise_is_counted_row_by_row() -> None:
    latent = torch.arange(6.0).view(3, 2).T
    moved = LatentTraversal(values=[9.0], latent_index=1).moved(latent, 0)
    assert moved.tolist() == [[0, 9, 4], [1, 3, 5]]


def test_a_number_that_the_latent_does_not_have_is_refused_with_how_many_there_are() -> None:
    with pytest.raises(InvalidParameter, match="have 6 numbers") as caught:
        LatentTraversal(latent_index=6).moved(torch.zeros(2, 3), 0)
    assert caught.value.param == "latent_index"
