"""Networks that can be differentiated: the right products, and rows that show no company."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_store.manifest import Manifest
from model_store.networks.binding import Declared
from model_store.networks.differentiable import DifferentiableExport
from model_store.networks.graph import GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.opening import differentiable_networks, open_model, opened
from model_store.networks.signatures import SIGNATURES
from model_store.networks.torch_graph import TorchGraph
from model_store.store import Store
from services.core.errors import EngineFailure, UnsupportedTask
from tests.unit.tiny_networks import Generator, manifest_of

CPU = torch.device("cpu")
ROWS = 12
SHAPE = (2, 4, 4)


class Denoiser(nn.Module):
    """Convolutions, a normalisation and attention: the kernels that choose by shape."""

    outputs = ("velocity",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.project = nn.Linear(16, 48)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at a state and a time."""
        h = nn.functional.silu(self.norm(self.first(x)) * (1 + t[:, None, None, None]))
        q, k, v = self.project(h.flatten(2).transpose(1, 2)).chunk(3, 2)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        velocity: Tensor = self.last(mixed).transpose(1, 2).reshape(x.shape)
        return velocity


@cache
def module() -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser().eval().requires_grad_(requires_grad=False)


def differentiable() -> DifferentiableExport:
    inputs = [
        GraphTensor("x", (None, *SHAPE), torch.float32),
        GraphTensor("t", (None,), torch.float32),
    ]
    graph = TorchGraph(
        module(), name="denoiser", inputs=inputs, device=CPU, threads=torch.get_num_threads()
    )
    declared = Declared("denoiser", Frame(2, 4, 4), SIGNATURES["diffusion", "denoiser"])
    network = DifferentiableExport(graph, declared, CPU)
    network.probe()
    return network


def rows() -> tuple[Mapping[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((ROWS, *SHAPE), generator=generator)
    t = torch.rand(ROWS, generator=generator)
    return {"x": x, "t": t}, torch.randn((ROWS, *SHAPE), generator=generator)


def product(
    network: DifferentiableExport, inputs: Mapping[str, Tensor], cotangent: Tensor
) -> tuple[Tensor, Tensor]:
    return network.vjp(inputs, wrt="x", output="velocity", cotangent=cotangent)


def test_products_are_those_of_the_whole_jacobian() -> None:
    network, (inputs, cotangent) = differentiable(), rows()
    output, products = product(network, inputs, cotangent)
    assert not output.requires_grad
    assert not products.requires_grad
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in inputs.items()}

        def velocity(x: Tensor, t: Tensor = one["t"]) -> Tensor:
            found: Tensor = module()(x, t)
            return found

        jacobian = torch.autograd.functional.jacobian(velocity, one["x"])
        assert isinstance(jacobian, Tensor)
        expected = cotangent[i].flatten() @ jacobian.reshape(32, 32)
        assert torch.allclose(products[i].flatten(), expected, atol=1e-5)
        assert torch.allclose(output[i], velocity(one["x"])[0], atol=1e-6)


def test_a_row_is_bitwise_the_same_in_any_mix() -> None:
    network, (inputs, cotangent) = differentiable(), rows()
    pairs = [
        product(network, {n: v[i : i + 1] for n, v in inputs.items()}, cotangent[i : i + 1])
        for i in range(ROWS)
    ]
    outputs, products = (torch.cat(part) for part in zip(*pairs, strict=True))
    calls = torch.cat(
        [network(**{n: v[i : i + 1] for n, v in inputs.items()})["velocity"] for i in range(ROWS)]
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(15):
        size = int(torch.randint(1, 40, (), generator=generator))
        order = torch.randint(0, ROWS, (size,), generator=generator)
        mixed = {name: value[order] for name, value in inputs.items()}
        output, back = product(network, mixed, cotangent[order])
        assert torch.equal(output, outputs[order]), (size, network.plan)
        assert torch.equal(back, products[order]), (size, network.plan)
        assert torch.equal(network(**mixed)["velocity"], calls[order])


def test_what_cannot_be_differentiated_is_told_apart() -> None:
    network, (inputs, cotangent) = differentiable(), rows()
    with pytest.raises(EngineFailure, match="no output 'epsilon'"):
        network.vjp(inputs, wrt="x", output="epsilon", cotangent=cotangent)
    with pytest.raises(EngineFailure, match="no output 'velocity' to differentiate by 'z'"):
        network.vjp(inputs, wrt="z", output="velocity", cotangent=cotangent)
    with pytest.raises(EngineFailure, match="its cotangent"):
        product(network, inputs, cotangent[:, :1])
    with pytest.raises(EngineFailure, match="takes"):
        product(network, {"x": inputs["x"]}, cotangent)


def test_the_catalogs_denoiser_has_gradients_of_what_it_samples_with(tmp_path: Path) -> None:
    """Along one direction, against the difference of two evaluations of the other export."""
    store = Store(tmp_path)
    model = open_model(store, "shapes-ldm", CPU, threads=1, prefer="onnx")
    assert set(model.gradients) == {"denoiser", "encoder", "decoder"}
    network = model.differentiable("denoiser")
    inputs = model.networks["denoiser"].random_rows(2)  # type: ignore[attr-defined]  # of exports
    generator = torch.Generator().manual_seed(3)
    direction, cotangent = (torch.randn(inputs["x"].shape, generator=generator) for _ in range(2))
    output, back = network.vjp(inputs, wrt="x", output="velocity", cotangent=cotangent)
    sampled = model.networks["denoiser"](**inputs)["velocity"]
    assert torch.allclose(output, sampled, atol=1e-4)
    step = 1e-2
    ahead, behind = (
        model.networks["denoiser"](**{**inputs, "x": inputs["x"] + s * direction})["velocity"]
        for s in (step, -step)
    )
    slope = ((ahead - behind) / (2 * step) * cotangent).flatten(1).sum(1)
    assert torch.allclose((back * direction).flatten(1).sum(1), slope, rtol=0.02, atol=0.05)


def test_a_network_without_safetensors_has_none(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(manifest_of(Generator()))
    assert differentiable_networks(Store(tmp_path), manifest, CPU, threads=1) == {}
    with pytest.raises(UnsupportedTask, match="'generator' of 'my-gan' has no differentiable"):
        opened(manifest, {}).differentiable("generator")
