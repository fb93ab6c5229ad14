"""A network run at a few batch sizes only, on input buffers that stay where they are.

Compiled code and captured graphs are for one shape each. A batch is put into the smallest bucket
that holds it, filled up with copies of its first row; larger ones are run in several parts. With
one bucket every evaluation has the same shape, and so the same kernels: a row cannot show how many
others there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]

DEFAULT_SIZES = (1, 2, 4, 8, 16)
WARM_UP_RUNS = 3
"""What CUDA asks for before a capture, so that libraries have chosen their kernels."""


class BatchBuckets:
    """A function of batches, evaluated in buckets.

    Not for several threads at once: the buffers are shared between calls.
    """

    def __init__(
        self, function: Function, device: torch.device, sizes: Sequence[int], *, capture: bool
    ) -> None:
        """Evaluate nothing yet; a bucket is made when it is first needed.

        Args:
            function: evaluates a batch; its outputs have as many rows.
            device: where the function wants its inputs.
            sizes: of the buckets, at least one.
            capture: record each bucket's evaluation as a CUDA graph, and replay it from then on.
                Without a CUDA device everything else is the same.
        """
        self.sizes = tuple(sorted(set(sizes)))
        self._function, self._device = function, device
        captures = capture and device.type == "cuda"
        self._pool: Any = torch.cuda.graph_pool_handle() if captures else None
        self._buckets: dict[int, _Bucket] = {}

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate any number of rows; outputs have as many and are the caller's own."""
        rows, most = len(next(iter(feeds.values()))), self.sizes[-1]
        parts = [
            self._run_part({name: value[start : start + most] for name, value in feeds.items()})
            for start in range(0, rows, most)
        ]
        return parts[0] if len(parts) == 1 else [torch.cat(c) for c in zip(*parts, strict=True)]

    def _run_part(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        rows = len(next(iter(feeds.values())))
        size = next(size for size in self.sizes if size >= rows)
        bucket = self._buckets.get(size)
        if bucket is None:
            bucket = _Bucket(self._function, feeds, self._device, size, self._pool)
            self._buckets[size] = bucket
        return bucket.run(feeds)


class _Bucket:
    """One batch size: its input buffers, and its graph where there is one."""

    def __init__(
        self,
        function: Function,
        feeds: Mapping[str, Tensor],
        device: torch.device,
        size: int,
        pool: Any,  # torch has no public name for its type
    ) -> None:
        self._function = function
        self._buffers = {
            name: torch.empty((size, *value.shape[1:]), dtype=value.dtype, device=device)
            for name, value in feeds.items()
        }
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Sequence[Tensor] = ()
        self._fill(feeds)
        if pool is not None:
            self._capture(device, pool)

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate up to as many rows as the bucket holds."""
        rows = len(next(iter(feeds.values())))
        self._fill(feeds)
        if self._graph is None:
            return [output[:rows] for output in self._function(self._buffers)]
        self._graph.replay()
        # The next replay writes to the same place.
        return [output[:rows].clone() for output in self._outputs]

    def _fill(self, feeds: Mapping[str, Tensor]) -> None:
        for name, buffer in self._buffers.items():
            rows = feeds[name]
            buffer[: len(rows)].copy_(rows)
            if len(rows) < len(buffer):
                buffer[len(rows) :].copy_(buffer[:1].expand_as(buffer[len(rows) :]))

    def _capture(self, device: torch.device, pool: Any) -> None:
        """Record one evaluation; see "Whole-network capture" in PyTorch's notes on CUDA graphs."""
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                self._function(self._buffers)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Another thread may be serving another model on the same device meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = self._function(self._buffers)
        self._graph = graph
