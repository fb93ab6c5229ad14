"""A network whose normalisations are folded computes what it did, in fewer tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model_store.architectures.digit_gan import StridedGenerator
from model_store.architectures.perceptron_gan import PerceptronGenerator
from model_store.export.folding import folded


def trained(network: nn.Module) -> nn.Module:
    """Give every normalisation a mean, a variance, a scale and a shift that matter."""
    generator = torch.Generator().manual_seed(3)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (part.running_mean, part.bias):
                assert tensor is not None
                tensor.data = torch.randn(tensor.shape, generator=generator)
            for tensor in (part.running_var, part.weight):
                assert tensor is not None
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("normalized", "bare"),
    [
        (
            StridedGenerator(latent=4, width=4),
            StridedGenerator(latent=4, width=4, normalized=False),
        ),
        (
            PerceptronGenerator(latent=4, hidden=(6, 5)),
            PerceptronGenerator(latent=4, hidden=(6, 5), normalized=False),
        ),
    ],
)
def test_the_served_network_computes_the_same(normalized: nn.Module, bare: nn.Module) -> None:
    network = trained(normalized)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    served = folded(network)
    bare.load_state_dict(served.state_dict())
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(bare.eval()(z), network(z), atol=1e-6, rtol=1e-5)
    assert len(served.state_dict()) < len(before)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_normalisation_that_follows_no_layer_stays() -> None:
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert isinstance(folded(network)[1], nn.BatchNorm1d)
