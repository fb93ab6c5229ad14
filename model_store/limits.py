"""How large a model's files may be, and how long trying them may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Ceilings that are checked before the work they bound.

    Attributes:
        file_bytes: one file that is read into memory whole.
        model_bytes: all such files of a model.
        weight_bytes: one weight file of a pipeline's component, which is only ever streamed.
        pipeline_bytes: all files of a pipeline; FLUX.1 in bfloat16 has 34 GB.
        folder_entries: files and folders under a folder that is added.
        header_bytes: the JSON header of a safetensors file.
        tensors: tensors of a safetensors file, or initialisers of an ONNX graph.
        nodes: nodes of an ONNX graph, subgraphs and functions included.
        output_values: numbers in one row of one output.
        trial_seconds: wall time of a network's first run, in a process of its own.
        trial_bytes: memory of that process beyond the network's own file.
        adapter_bytes: the files of one adapter.
        resident_adapter_bytes: opened adapters of a device; past it the least recently used one
            is let go.
    """

    file_bytes: int = 8 << 30
    model_bytes: int = 16 << 30
    weight_bytes: int = 64 << 30
    pipeline_bytes: int = 128 << 30
    folder_entries: int = 4096
    header_bytes: int = 10 << 20
    tensors: int = 20_000
    nodes: int = 100_000
    output_values: int = 1 << 26
    trial_seconds: float = 60.0
    trial_bytes: int = 4 << 30
    adapter_bytes: int = 4 << 30
    resident_adapter_bytes: int = 4 << 30
