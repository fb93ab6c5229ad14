from __future__ import annotations

import pytest
import torch

from model_store.architectures import ARCHITECTURES, build
from model_store.architectures.realnvp import RealNVP
from services.core.errors import InvalidNetwork

TINY_FLOW = {"channels": 1, "side": 4, "width": 8, "blocks": 1, "couplings": 2, "dropout": 0.0}

FORWARDS = [
    ("caption_transformer", {"x": (8, 8, 8), "t": (), "tokens": (6,)}, {"velocity": (8, 8, 8)}),
    ("conditional_generator", {"z": (64,), "label": ()}, {"image": (3, 32, 32)}),
    ("exploding_score", {"x": (1, 8, 8), "t": ()}, {"score": (1, 8, 8)}),
    (
        "factor_classifier",
        {"image": (3, 32, 32)},
        {
            "shape": (6,),
            "color": (8,),
            "background": (4,),
            "size": (3,),
            "vertical": (3,),
            "horizontal": (3,),
        },
    ),
    ("noisy_classifier", {"x": (1, 8, 8), "t": ()}, {"logits": (10,)}),
    ("patch_denoiser", {"x": (1, 8, 8), "t": ()}, {"epsilon": (1, 8, 8)}),
    ("pixel_denoiser", {"x": (1, 8, 8), "t": ()}, {"epsilon": (1, 8, 8)}),
    ("realnvp", {"x": (1, 8, 8)}, {"z": (64,), "log_det": ()}),
    ("realnvp_inverse", {"z": (64,)}, {"x": (1, 8, 8)}),
    ("spatial_decoder", {"z": (8, 8, 8)}, {"image": (3, 32, 32)}),
    ("spatial_encoder", {"image": (3, 32, 32)}, {"mean": (8, 8, 8), "log_variance": (8, 8, 8)}),
    (
        "super_resolver",
        {"x": (3, 64, 64), "t": (), "enlarged": (3, 64, 64)},
        {"velocity": (3, 64, 64)},
    ),
    ("vector_decoder", {"z": (32,)}, {"image": (3, 32, 32)}),
    ("vector_encoder", {"image": (3, 32, 32)}, {"mean": (32,), "log_variance": (32,)}),
]


def draw(name, shape, count):
    if name in ("label", "tokens"):
        return torch.randint(4, (count, *shape))
    return torch.rand(count, *shape)


def test_every_architecture_is_tried():
    assert {name for name, _, _ in FORWARDS} == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "inputs", "outputs"), FORWARDS)
@pytest.mark.parametrize("count", [1, 3])
def test_forward_gives_the_named_outputs(name, inputs, outputs, count):
    module = build(name, {})
    with torch.no_grad():
        given = module(**{key: draw(key, shape, count) for key, shape in inputs.items()})
    given = given if isinstance(given, tuple) else (given,)
    assert tuple(outputs) == type(module).outputs
    assert [tuple(value.shape) for value in given] == [(count, *s) for s in outputs.values()]
    assert all(value.isfinite().all() for value in given)


@pytest.mark.parametrize(("name", "inputs", "outputs"), FORWARDS)
def test_rows_do_not_look_at_one_another(name, inputs, outputs):
    module = build(name, {})
    batch = {key: draw(key, shape, 5) for key, shape in inputs.items()}
    with torch.no_grad():
        together = module(**batch)
        alone = module(**{key: value[3:4] for key, value in batch.items()})
    together = together if isinstance(together, tuple) else (together,)
    alone = alone if isinstance(alone, tuple) else (alone,)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[3:4], b, rtol=1e-4, atol=1e-4)


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(InvalidNetwork, match=r"no architecture 'os\.system'"):
        build("os.system", {})


def test_an_unknown_setting_is_refused():
    with pytest.raises(InvalidNetwork, match="takes no such config"):
        build("realnvp", {"depth": 3})


@pytest.fixture
def flow():
    torch.manual_seed(0)
    flow = RealNVP(**TINY_FLOW).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def test_the_flow_counts_its_jacobian(flow):
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    _, log_det = flow(x)
    for row, claimed in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row)
        _, expected = torch.linalg.slogdet(jacobian.reshape(16, 16))
        torch.testing.assert_close(claimed, expected, rtol=1e-8, atol=1e-8)


def test_the_flow_undoes_itself(flow):
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(x)[0]), x, rtol=1e-9, atol=1e-9)


def test_both_directions_share_their_weights():
    forward, backward = build("realnvp", {}), build("realnvp_inverse", {})
    backward.load_state_dict(forward.state_dict())
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(backward(forward(x)[0]), x, rtol=1e-4, atol=1e-5)


def test_a_null_caption_is_a_caption():
    module = build("caption_transformer", {})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x, t = torch.randn(1, 8, 8, 8), torch.tensor([0.5])
    with torch.no_grad():
        null = module(x, t, torch.zeros(1, 6, dtype=torch.int64))
        last = module(x, t, torch.tensor([[6, 8, 4, 3, 3, 3]]))
    assert null.isfinite().all()
    assert not torch.equal(null, last)


def test_an_untrained_exploding_score_is_that_of_noisy_data_without_structure():
    """Before training its body says nothing, and ``N(0, sigma_data^2 + sigma^2)`` is left."""
    module = build("exploding_score", {"sigmas": [0.1, 5.0], "sigma_data": 0.6})
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 1.0, 5.0])
    with torch.no_grad():
        score = module(x, sigma)
    variance = 0.6**2 + sigma.square().view(-1, 1, 1, 1)
    assert torch.allclose(score, -x / variance)
    with torch.no_grad():
        assert torch.equal(module(x, torch.zeros(3)), module(x, torch.full((3,), 0.1)))
