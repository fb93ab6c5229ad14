"""A row of a network never shows its company: bitwise, in any batch, at any place."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from model_store.networks.binding import Declared
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import Graph, GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.onnx_graph import OnnxGraph
from model_store.networks.row_plan import PROBED_ROWS, RowPlan, candidates, find_plan
from model_store.networks.torch_graph import TorchGraph
from services.core.errors import EngineFailure

CPU = torch.device("cpu")
LATENT = 24


class ConvNet(nn.Module):
    """A small upsampling generator."""

    outputs = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(LATENT, 16 * 16)
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(self.inlet(z).view(-1, 16, 4, 4))


class Transformer(nn.Module):
    """One block of attention over latent tokens."""

    outputs = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(LATENT, 16 * 32)
        self.project = nn.Linear(32, 96)
        self.norm = nn.LayerNorm(32)
        self.feed = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 12))

    def forward(self, z: Tensor) -> Tensor:
        x = self.inlet(z).view(-1, 16, 32)
        q, k, v = self.project(x).view(-1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.norm(x + mixed.transpose(1, 2).reshape(-1, 16, 32))
        return self.feed(x).view(-1, 4, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 8, 8)


def onnx_graph(module: nn.Module) -> Graph:
    file = io.BytesIO()
    program = torch.onnx.export(
        module.eval(),
        (torch.randn(2, LATENT),),
        dynamo=True,
        input_names=["z"],
        output_names=["image"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )
    assert program is not None
    file.write(program.model_proto.SerializeToString())
    return OnnxGraph(file.getvalue(), name="generator", device=CPU, threads=2)


def torch_graph(module: nn.Module) -> Graph:
    inputs = [GraphTensor("z", (None, LATENT), torch.float32)]
    return TorchGraph(module.eval(), name="generator", inputs=inputs, device=CPU, threads=2)


@pytest.mark.parametrize("architecture", [ConvNet, Transformer])
@pytest.mark.parametrize("export", [onnx_graph, torch_graph])
def test_a_row_is_bitwise_the_same_in_any_mix(
    architecture: type[nn.Module], export: Callable[[nn.Module], Graph]
) -> None:
    torch.manual_seed(0)
    network = ExportedNetwork(export(architecture()), Declared("generator", Frame(3, 8, 8)), CPU)
    network.probe()
    z = torch.randn(40, LATENT)
    alone = torch.cat([network(z=row[None])["image"] for row in z])
    generator = torch.Generator().manual_seed(1)
    for _ in range(25):
        size = int(torch.randint(1, 100, (), generator=generator))
        order = torch.randint(0, len(z), (size,), generator=generator)
        assert torch.equal(network(z=z[order])["image"], alone[order]), (size, network.plan)


# --- the ladder of plans, on functions that misbehave in one way each ------------------------


Rows = Mapping[str, Tensor]


def steady(inputs: Rows) -> Sequence[Tensor]:
    return [inputs["x"] * 2]


def odd_when_alone(inputs: Rows) -> Sequence[Tensor]:
    return [inputs["x"] * 2 + (1e-6 if len(inputs["x"]) == 1 else 0)]


def odd_by_size(inputs: Rows) -> Sequence[Tensor]:
    return [inputs["x"] * 2 + 1e-6 * len(inputs["x"])]


def mixes_rows(inputs: Rows) -> Sequence[Tensor]:
    return [inputs["x"] - inputs["x"].mean(0)]


def takes_one_row(inputs: Rows) -> Sequence[Tensor]:
    if len(inputs["x"]) != 1:
        raise EngineFailure("one row, please")
    return steady(inputs)


def takes_four_rows(inputs: Rows) -> Sequence[Tensor]:
    if len(inputs["x"]) != 4:
        raise EngineFailure("four rows, please")
    return steady(inputs)


def takes_four_and_mixes(inputs: Rows) -> Sequence[Tensor]:
    takes_four_rows(inputs)
    return mixes_rows(inputs)


@pytest.mark.parametrize(
    ("function", "static", "plan"),
    [
        (steady, None, RowPlan(1, 64)),
        (odd_when_alone, None, RowPlan(2, 64)),
        (odd_by_size, None, RowPlan(8, 8)),
        (mixes_rows, None, RowPlan(1, 1)),
        (takes_one_row, None, RowPlan(1, 1)),
        (takes_one_row, 1, RowPlan(1, 1)),
        (takes_four_rows, 4, RowPlan(4, 4)),
        (takes_four_and_mixes, 4, RowPlan(4, 1)),
    ],
)
def test_the_cheapest_plan_that_holds_is_found(
    function: Callable[[Rows], Sequence[Tensor]], static: int | None, plan: RowPlan
) -> None:
    rows = {"x": torch.randn(PROBED_ROWS, 3)}
    assert find_plan(function, rows, static) == plan
    alone = torch.cat([plan.run(function, {"x": row[None]})[0] for row in rows["x"]])
    together = plan.run(function, rows)[0]
    assert torch.equal(alone, together)


def test_every_ladder_ends_in_a_row_alone() -> None:
    assert [candidates(size)[-1].most for size in (None, 1, 4)] == [1, 1, 1]
