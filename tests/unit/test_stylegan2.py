from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from model_store.architectures import build
from model_store.architectures.equalized import EqualizedLinear
from model_store.architectures.stylegan2 import StyleMapping, StyleModulations, StyleSynthesis
from model_store.architectures.stylegan2_discriminator import StyleDiscriminator, with_deviation
from model_store.architectures.stylegan2_layers import ModulatedConvolution
from model_store.export.network import Input, NetworkExport, export

TINY = {"resolution": 16, "width": 8, "fine": 4, "layers": 2, "bands": 2}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    synthesis = StyleSynthesis(**TINY)
    with torch.no_grad():
        for layer in (*synthesis.coarse, synthesis.fine):
            layer.noise_strength.fill_(0.5)
    return synthesis.eval()


def modulations(synthesis, rows):
    return torch.randn(rows, sum(synthesis.style_channels))


def grouped(convolution, x, style):
    """Equations 1 and 3 as the paper writes them: weights of every row's own."""
    rows, channels, height, width = x.shape
    weight = convolution.weight * convolution.gain * style[:, None, :, None, None]
    if convolution.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    together = functional.conv2d(
        x.reshape(1, rows * channels, height, width),
        weight.flatten(0, 1),
        padding=convolution.padding,
        groups=rows,
    )
    return together.view(rows, -1, height, width)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_scaled_activations_are_modulated_weights(kernel, demodulate):
    convolution = ModulatedConvolution(5, 6, kernel=kernel, demodulate=demodulate)
    x, style = torch.randn(4, 5, 8, 8), torch.randn(4, 5)
    torch.testing.assert_close(
        convolution(x, style), grouped(convolution, x, style), rtol=1e-4, atol=1e-5
    )


def test_demodulation_gives_unit_variance_whatever_the_style():
    convolution = ModulatedConvolution(16, 64, kernel=3)
    style = torch.exp(2 * torch.randn(3, 16))
    h = convolution(torch.randn(3, 16, 48, 48), style)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(h.std(dim=(1, 2, 3)), torch.ones(3), rtol=0.05, atol=0.0)


def test_a_multiplier_slows_learning_and_changes_nothing_else():
    steps = []
    for multiplier in (1.0, 0.1):
        torch.manual_seed(1)
        layer = EqualizedLinear(4, 3, gain=1.0, bias=1.0, lr_multiplier=multiplier)
        x = torch.randn(2, 4)
        before = layer(x).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        layer(x).sum().backward()
        optimizer.step()
        steps.append((before, (layer(x) - before).detach()))
    (first, moved), (second, moved_less) = steps
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(moved_less, 0.1 * moved, rtol=1e-3, atol=1e-6)


def test_the_mapping_sees_the_direction_of_the_noise_alone():
    mapping = StyleMapping(latent=8, style=4, width=16, layers=3)
    z = torch.randn(3, 8)
    torch.testing.assert_close(mapping(5 * z), mapping(z), rtol=1e-4, atol=1e-5)


def test_each_layer_follows_its_own_latent():
    styles = StyleModulations(6, [4, 5, 3])
    w = torch.randn(2, 3, 6)
    before = styles(w)
    w[:, 1] += 1.0
    changed = (styles(w) != before).any(dim=0)
    assert changed.tolist() == [False] * 4 + [True] * 5 + [False] * 3


def test_noise_changes_the_image_and_its_absence_does_not(tiny):
    s = modulations(tiny, 2)
    none = torch.zeros(2, tiny.noise_size)
    with torch.no_grad():
        assert torch.equal(tiny(s, none), tiny(s, none))
        assert not torch.equal(tiny(s, none), tiny(s, torch.randn(2, tiny.noise_size)))


def test_every_map_of_noise_is_used(tiny):
    noise = torch.zeros(1, tiny.noise_size, requires_grad=True)
    tiny.draw(modulations(tiny, 1), noise).square().sum().backward()
    maps = noise.grad.split([side * side for side in tiny.noise_sides], dim=1)
    assert len(maps) == TINY["layers"] + 1
    assert all(part.abs().sum() > 0 for part in maps)


def test_the_pose_moves_the_picture():
    """Half a width to the right is half the columns further, and nothing else."""
    synthesis = StyleSynthesis(**TINY).eval()
    s = modulations(synthesis, 1)
    s[:, :4] = 0.0
    moved = s.clone()
    moved[:, 0] = 1.0
    none = torch.zeros(1, synthesis.noise_size)
    with torch.no_grad():
        here, there = synthesis.draw(s, none), synthesis.draw(moved, none)
    # The bilinear sum reaches over one coarse pixel at the border.
    torch.testing.assert_close(there[..., 10:-2], here[..., 2:-10], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "inputs", "config"),
    [
        ("mapping", "style_mapping", {"z": Input((8,))}, {"latent": 8, "style": 4, "width": 8}),
        (
            "styles",
            "style_modulations",
            {"w": Input((3, 4))},
            {"style": 4, "channels": [4, 5, 3]},
        ),
        (
            "synthesis",
            "style_synthesis",
            {"s": Input((40,)), "noise": Input((384,))},
            TINY,
        ),
    ],
)
def test_the_parts_export_with_a_free_batch(tmp_path, name, architecture, inputs, config):
    module = build(architecture, config)
    network = NetworkExport(name, architecture, module, inputs, config)
    assert export(network, tmp_path) <= 1e-5


def test_the_discriminator_tells_copies_from_a_group_that_differs():
    same = torch.randn(1, 2, 4, 4).expand(4, -1, -1, -1)
    alike = with_deviation(same, group=4)[:, -1]
    apart = with_deviation(torch.randn(4, 2, 4, 4), group=4)[:, -1]
    assert alike.max() < 1e-3
    assert apart.min() > 0.1


def test_groups_of_the_discriminator_do_not_look_at_one_another():
    discriminator = StyleDiscriminator(width=8, group=2).eval()
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    # Row i is grouped with row i + n / group.
    with torch.no_grad():
        together = discriminator(images)
        alone = discriminator(images[[0, 2]])
    torch.testing.assert_close(together[[0, 2]], alone, rtol=1e-4, atol=1e-5)
