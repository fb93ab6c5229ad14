"""A deterministic network on torch is run at one batch size."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from model_store.networks.binding import Declared
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.fixed_batch import LARGE_ROW, fixed_rows, usual_rows
from model_store.networks.graph import Graph, GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.row_plan import FIXED_ROWS, RowPlan, candidates
from model_store.networks.torch_graph import TorchGraph

CPU = torch.device("cpu")


class Doubling(nn.Module):
    """A matrix product of a row of 64 numbers with itself, some times."""

    outputs = ("y",)

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.matrix = nn.Parameter(torch.eye(64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x @ self.matrix
        return x


def graph(times: int, rows: int) -> TorchGraph:
    inputs = [GraphTensor("x", (None, rows, 64), torch.float32)]
    return TorchGraph(Doubling(times), name="net", inputs=inputs, device=CPU, threads=1)


class Elsewhere:
    """What another backend says of itself."""

    backend = "onnxruntime CPUExecutionProvider"
    sizes = ()


class Bucketed(Elsewhere):
    """A graph that was compiled for batches of one size."""

    backend = "torch cpu"
    sizes = (4,)


def feeds(rows: int) -> Mapping[str, Tensor]:
    return {"x": torch.ones(1, rows, 64)}


def test_a_small_row_goes_in_a_bucket_and_a_large_one_alone() -> None:
    assert fixed_rows(graph(1, 8), feeds(8)) == FIXED_ROWS
    rows = LARGE_ROW // (2 * 64 * 64 * 64) + 1
    assert fixed_rows(graph(64, rows), feeds(rows)) == 1


def test_only_torch_is_held_to_one_size_and_to_its_own_bucket() -> None:
    def of(kind: type[Elsewhere]) -> int | None:
        other: Graph = kind()  # type: ignore[assignment]  # it is not run
        assert fixed_rows(other, {}) == usual_rows(other)
        return usual_rows(other)

    assert of(Elsewhere) is None
    assert of(Bucketed) == 4


def test_a_network_on_torch_takes_no_plan_of_several_sizes() -> None:
    network = ExportedNetwork(graph(1, 8), Declared("net", Frame(1, 8, 64)), CPU)
    network.probe()
    assert network.plan == RowPlan(FIXED_ROWS, FIXED_ROWS)
    assert not network.take_plan(RowPlan(2, 64))
    assert network.take_plan(RowPlan(1, 1))


@pytest.mark.parametrize("fixed", [1, 4])
def test_the_ladder_of_a_fixed_size_ends_in_a_row_alone(fixed: int) -> None:
    plans = candidates(None, fixed)
    assert plans[0] == RowPlan(fixed, fixed)
    assert plans[-1] == RowPlan(1, 1)
    assert len(set(plans)) == len(plans)
