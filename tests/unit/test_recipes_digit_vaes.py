"""What the loss of the hierarchical VAE of digits asks of its levels."""

from __future__ import annotations

import pytest
import torch

from model_store.recipes.digits_hvae import FREE_NATS, with_free_nats


def test_a_level_costs_nothing_below_its_free_nats() -> None:
    sizes = (4, 8)
    quiet, loud = FREE_NATS * 4 / 2, FREE_NATS * 8 + 3
    kl = torch.tensor([[quiet, loud], [quiet, loud]], requires_grad=True)
    paid = with_free_nats(kl, sizes)
    paid.backward()
    assert float(paid.detach()) == pytest.approx(FREE_NATS * 4 + loud)
    assert kl.grad.tolist() == [[0, 0.5], [0, 0.5]]
