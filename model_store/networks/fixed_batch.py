"""The one batch size at which torch runs a network that is to be deterministic.

Torch chooses its kernels by shape. Trying some batch sizes says too little of the others: an
autoencoder whose rows were the same at every size from 2 to 16 was seen to differ at 64. At one
size there is nothing to choose between.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model_store.networks.graph import Graph
from model_store.networks.row_plan import FIXED_ROWS

LARGE_ROW = 4 << 30
"""Operations of a row that keep a CPU busy by itself, so that company would make it no cheaper."""


def fixed_rows(graph: Graph, row: Mapping[str, Tensor]) -> int | None:
    """The batch size for a graph; ``None`` where its backend keeps rows apart at many sizes.

    On a CPU a row of many operations goes alone: filling up a batch would cost as much for every
    row that nobody asked for. What counts is the number of operations and not their time, which is
    another on every run, and with it would be the image.

    Args:
        graph: the network.
        row: feeds of one row.

    Raises:
        EngineFailure: the graph cannot be run.
    """
    usual = usual_rows(graph)
    if usual is None or graph.sizes or graph.backend != "torch cpu":
        return usual
    with FlopCounterMode(display=False) as counter:
        graph.run(row)
    return 1 if counter.get_total_flops() >= LARGE_ROW else usual


def usual_rows(graph: Graph) -> int | None:
    """As `fixed_rows`, without regard to the size of a row: the graph's own bucket, or some."""
    if not graph.backend.startswith("torch"):
        return None
    return graph.sizes[0] if len(graph.sizes) == 1 else FIXED_ROWS
