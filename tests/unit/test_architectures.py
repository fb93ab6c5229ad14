from __future__ import annotations

import pytest
import torch

from model_store.architectures import ARCHITECTURES, build
from model_store.architectures.autoregressive_flow import (
    IAF,
    MAF,
    AutoregressiveLayer,
    IAFForwardStep,
    MAFInverseStep,
    solve,
)
from model_store.architectures.glow import Glow, InvertibleConvolution, unit_triangular_inverse
from model_store.architectures.hierarchical_vae import Ladder
from model_store.architectures.nice import NICE
from model_store.architectures.realnvp import RealNVP
from services.core.errors import InvalidNetwork

TINY_FLOW = {"channels": 1, "side": 4, "width": 8, "blocks": 1, "couplings": 2, "dropout": 0.0}

FORWARDS = [
    ("bernoulli_density", {"x": (1, 8, 8)}, {"log_density": (2,)}),
    ("bernoulli_sampler", {"z": (64,), "component": ()}, {"x": (1, 8, 8)}),
    ("caption_transformer", {"x": (8, 8, 8), "t": (), "tokens": (6,)}, {"velocity": (8, 8, 8)}),
    (
        "code_recognition",
        {"image": (1, 8, 8)},
        {"category_logits": (10,), "continuous_mean": (2,), "continuous_log_variance": (2,)},
    ),
    (
        "coded_generator",
        {"z": (24,), "category": (), "continuous": (2,)},
        {"image": (1, 8, 8)},
    ),
    ("conditional_generator", {"z": (64,), "label": ()}, {"image": (3, 32, 32)}),
    ("convolutional_decoder", {"z": (10,)}, {"image": (3, 32, 32)}),
    (
        "convolutional_encoder",
        {"image": (3, 32, 32)},
        {"mean": (10,), "log_variance": (10,)},
    ),
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
    ("gaussian_density", {"x": (1, 8, 8)}, {"log_density": (1,), "z": (64,)}),
    ("glow", {"x": (1, 8, 8)}, {"z": (64,), "log_det": ()}),
    ("glow_inverse", {"z": (64,)}, {"x": (1, 8, 8)}),
    ("hierarchical_decoder", {"z": (28,)}, {"image": (1, 8, 8)}),
    (
        "hierarchical_encoder",
        {"image": (1, 8, 8), "noise": (28,)},
        {"z": (28,), "mean": (28,), "log_variance": (28,)},
    ),
    ("iaf", {"z": (64,)}, {"x": (1, 8, 8)}),
    ("iaf_forward_step", {"state": (3, 64), "index": ()}, {"next_state": (3, 64)}),
    ("maf", {"x": (1, 8, 8)}, {"z": (64,), "log_det": ()}),
    ("maf_inverse_step", {"state": (3, 64), "index": ()}, {"next_state": (3, 64)}),
    ("mixture_density", {"x": (1, 8, 8)}, {"log_density": (2,)}),
    ("mixture_sampler", {"z": (64,), "component": ()}, {"x": (1, 8, 8)}),
    ("nice", {"x": (1, 8, 8)}, {"z": (64,), "log_det": ()}),
    ("nice_inverse", {"z": (64,)}, {"x": (1, 8, 8)}),
    ("noisy_classifier", {"x": (1, 8, 8), "t": ()}, {"logits": (10,)}),
    ("patch_denoiser", {"x": (1, 8, 8), "t": ()}, {"epsilon": (1, 8, 8)}),
    ("patch_translator", {"source": (3, 32, 32)}, {"image": (3, 32, 32)}),
    ("perceptron_critic", {"image": (1, 8, 8)}, {"realness": ()}),
    ("perceptron_decoder", {"z": (12,)}, {"image": (1, 8, 8)}),
    ("perceptron_encoder", {"image": (1, 8, 8)}, {"z": (12,)}),
    ("perceptron_generator", {"z": (32,)}, {"image": (1, 8, 8)}),
    ("pixel_denoiser", {"x": (1, 8, 8), "t": ()}, {"epsilon": (1, 8, 8)}),
    (
        "progressive_generator",
        {"z": (64,)},
        {"image_8": (3, 8, 8), "image_16": (3, 16, 16), "image": (3, 32, 32)},
    ),
    ("realnvp", {"x": (1, 8, 8)}, {"z": (64,), "log_det": ()}),
    ("realnvp_inverse", {"z": (64,)}, {"x": (1, 8, 8)}),
    ("residual_enlarger", {"source": (3, 16, 16)}, {"image": (3, 64, 64)}),
    ("spatial_decoder", {"z": (8, 8, 8)}, {"image": (3, 32, 32)}),
    ("spatial_encoder", {"image": (3, 32, 32)}, {"mean": (8, 8, 8), "log_variance": (8, 8, 8)}),
    ("strided_critic", {"image": (1, 8, 8)}, {"realness": ()}),
    ("strided_encoder", {"image": (1, 8, 8)}, {"mean": (32,), "log_variance": (32,)}),
    ("strided_generator", {"z": (32,)}, {"image": (1, 8, 8)}),
    (
        "super_resolver",
        {"x": (3, 64, 64), "t": (), "enlarged": (3, 64, 64)},
        {"velocity": (3, 64, 64)},
    ),
    (
        "token_transformer",
        {"token": (), "position": (), "tokens": (6,), "cache": (4, 2, 69, 96)},
        {"logits": (512,), "entry": (4, 2, 96)},
    ),
    ("two_level_decoder", {"codes": (20,)}, {"image": (1, 8, 8)}),
    ("two_level_encoder", {"image": (1, 8, 8)}, {"scores": (20, 64)}),
    ("style_encoder", {"image": (3, 64, 64)}, {"w": (7, 32)}),
    ("style_mapping", {"z": (64,)}, {"w": (32,)}),
    ("style_modulations", {"w": (7, 32)}, {"s": (240,)}),
    ("style_synthesis", {"s": (240,), "noise": (7168,)}, {"image": (3, 64, 64)}),
    ("vector_decoder", {"z": (32,)}, {"image": (3, 32, 32)}),
    ("vector_encoder", {"image": (3, 32, 32)}, {"mean": (32,), "log_variance": (32,)}),
    ("vector_quantized_decoder", {"codes": (64,)}, {"image": (3, 32, 32)}),
    ("vector_quantized_encoder", {"image": (3, 32, 32)}, {"scores": (64, 512)}),
]


def draw(name, shape, count):
    if name == "component":
        return torch.randint(2, (count, *shape))
    if name in ("label", "tokens", "index", "category", "token", "position", "codes"):
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


FLOWS = [
    (RealNVP, TINY_FLOW),
    (NICE, {"side": 4, "width": 8, "couplings": 3}),
    (Glow, {"side": 4, "width": 8, "steps": 2}),
    (MAF, {"side": 4, "width": 20, "layers": 3}),
    (IAF, {"side": 4, "width": 20, "layers": 2}),
]


@pytest.fixture(params=FLOWS, ids=lambda given: given[0].__name__)
def flow(request):
    kind, config = request.param
    torch.manual_seed(0)
    flow = kind(**config).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def test_a_flow_counts_its_jacobian(flow):
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    _, log_det = flow.transform(x)
    for row, claimed in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.transform(v[None])[0][0], row)
        _, expected = torch.linalg.slogdet(jacobian.reshape(16, 16))
        torch.testing.assert_close(claimed, expected, rtol=1e-8, atol=1e-8)


def test_a_flow_undoes_itself(flow):
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow.transform(x)[0]), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["realnvp", "nice", "glow"])
def test_both_directions_share_their_weights(name):
    forward, backward = build(name, {}), build(f"{name}_inverse", {})
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


def test_additive_couplings_keep_every_volume():
    """All of NICE's log-determinant is the logit's and the last scaling's."""
    torch.manual_seed(0)
    flow = NICE(side=4, width=8, couplings=3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.rand(4, 1, 4, 4)
    found = flow(x)[1] - flow.squash(x)[1]
    torch.testing.assert_close(found, flow.scaling.sum().expand(4))


@pytest.mark.parametrize("reverse", [False, True])
def test_an_autoregressive_layer_looks_back_only(reverse):
    torch.manual_seed(0)
    layer = AutoregressiveLayer(7, 12, 0.0, reverse=reverse).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    jacobian = torch.autograd.functional.jacobian(
        lambda y: torch.cat(layer.coefficients(y[None]), 0), torch.randn(7).double()
    )
    for kind in jacobian.flip((1, 2)) if reverse else jacobian:
        assert torch.all(kind.triu() == 0)
        assert torch.all(kind[torch.ones(7, 7).tril(-1).bool()] != 0)


def test_what_is_solved_value_by_value_is_what_the_layer_takes():
    torch.manual_seed(0)
    layer = AutoregressiveLayer(9, 20, 0.0, reverse=True).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    y = torch.randn(6, 9).double()
    given, terms = layer(y)
    found, log_scale = solve(layer, given)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(log_scale, -terms.sum(1))


@pytest.mark.parametrize("stepwise", [MAFInverseStep, IAFForwardStep])
def test_steps_come_to_what_the_whole_pass_does(stepwise):
    torch.manual_seed(0)
    whole = (MAF if stepwise is MAFInverseStep else IAF)(side=4, width=20, layers=3).double()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    whole.eval()
    step = stepwise(side=4, width=20, layers=3).double().eval()
    step.load_state_dict(whole.state_dict())
    given = torch.rand(3, 16).double()
    state = torch.stack([given, torch.zeros(3, 16), torch.zeros(3, 16)], dim=1)
    for index in range(step.evaluations):
        state = step(state, torch.full((3,), index))
    if stepwise is MAFInverseStep:
        torch.testing.assert_close(state[:, 0], whole.inverse(given).flatten(1))
        return
    z, log_det = whole.transform(given.view(3, 1, 4, 4))
    torch.testing.assert_close(state[:, 0], z)
    torch.testing.assert_close(state[:, 2].sum(1), log_det)


@pytest.mark.parametrize("channels", [2, 3, 4, 8])
def test_an_invertible_convolution_and_its_inverse_and_determinant(channels):
    torch.manual_seed(channels)
    mix = InvertibleConvolution(channels).double()
    with torch.no_grad():
        for parameter in mix.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    expected = torch.linalg.inv(mix.weight())
    torch.testing.assert_close(mix.inverse_weight(), expected)
    torch.testing.assert_close(mix.log_size.sum(), torch.linalg.slogdet(mix.weight()).logabsdet)
    strict = torch.randn(channels, channels).double().tril(-1)
    identity = torch.eye(channels).double()
    torch.testing.assert_close(unit_triangular_inverse(strict), torch.linalg.inv(identity + strict))


def test_activation_normalisation_gives_every_channel_mean_0_and_variance_1():
    torch.manual_seed(0)
    flow = Glow(side=4, width=8, steps=1)
    x = torch.rand(64, 1, 4, 4)
    flow.initialize(x)
    h = torch.nn.functional.pixel_unshuffle(flow.squash(x)[0], 2)
    norm = flow.fine.layers[0].norm
    h = (h + norm.bias) * norm.log_scale.exp()
    torch.testing.assert_close(h.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.std((0, 2, 3)), torch.ones(4))


def test_a_ladders_latents_are_in_units_of_the_prior_given_the_levels_above():
    """Against torch.distributions, level by level, in the latents' own coordinates."""
    torch.manual_seed(3)
    ladder = Ladder(latents=(2, 3, 4), width=16, dropout=0.0).eval().double()
    for parameter in ladder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    noise = torch.randn(5, 9, dtype=torch.float64)
    with torch.no_grad():
        z, mean, log_variance = ladder.infer(image, noise)
        state, place = ladder.top.expand(5, -1), 0
        for level, size in zip(ladder.levels, ladder.latents, strict=True):
            part = slice(place, place + size)
            center, log_scale = level.prior(state).chunk(2, 1)
            prior = torch.distributions.Normal(center, log_scale.exp())
            seen = torch.distributions.Normal(
                center + prior.scale * mean[:, part],
                prior.scale * (0.5 * log_variance[:, part]).exp(),
            )
            own = center + prior.scale * z[:, part]
            unit = torch.distributions.Normal(*torch.tensor([0.0, 1.0], dtype=torch.float64))
            told = torch.distributions.Normal(mean[:, part], (0.5 * log_variance[:, part]).exp())
            divergence = torch.distributions.kl_divergence
            assert torch.allclose(divergence(seen, prior), divergence(told, unit), atol=1e-4)
            weight = prior.log_prob(own) - seen.log_prob(own)
            in_units = unit.log_prob(z[:, part]) - told.log_prob(z[:, part])
            assert torch.allclose(weight, in_units, atol=1e-4)
            state, place = level(state, z[:, part]), place + size
        assert torch.equal(ladder.decode(z), ladder.image(state).view(5, 1, 8, 8))


def test_a_ladders_level_sees_nothing_of_those_below_it():
    ladder = build("hierarchical_encoder", {"latents": [2, 3], "width": 16})
    image, noise = torch.rand(1, 1, 8, 8), torch.randn(1, 5)
    other = noise.clone()
    other[:, 2:] += 1
    with torch.no_grad():
        first, second = ladder(image, noise), ladder(image, other)
    assert torch.equal(first[0][:, :2], second[0][:, :2])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0][:, 2:], second[0][:, 2:])
