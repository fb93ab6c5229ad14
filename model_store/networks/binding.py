"""Which tensor of a graph is which of the family's, and how each is converted.

Strangers name, order, shape and type their tensors as their framework does. A tensor is found by
the manifest's own mapping, else by equal names, else by position among those of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from model_store.networks.graph import Dims, GraphTensor
from model_store.networks.image_layout import Frame, Order, find_layout
from model_store.networks.signatures import Kind, Port, Signature
from services.core.errors import InvalidNetwork
from services.core.network import TensorSpec

Conversion = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Declared:
    """What the manifest says of a network beside its files."""

    name: str
    frame: Frame
    signature: Signature | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    image_layout: Order | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """One tensor: the family's name and shape, the graph's name, and the way between them.

    ``classes`` is the number of labels that a one-hot input distinguishes.
    """

    name: str
    graph: str
    spec: TensorSpec
    convert: Conversion
    classes: int | None = None


def bind_inputs(declared: Declared, tensors: Sequence[GraphTensor]) -> tuple[Bound, ...]:
    """Every input of the graph under the family's name.

    Raises:
        InvalidNetwork: an input that the family needs is not there, one that is there is not
            known, or a shape cannot be what the family feeds.
    """
    ports = declared.signature.inputs if declared.signature else ()
    chosen = _by_name(declared, ports, tensors, declared.inputs, "input")
    for port in ports:
        if port.name not in chosen and not port.named:
            free = [t for t in tensors if t.name not in {c.name for c in chosen.values()}]
            match = next((t for t in free if _could_be(port.kind, t)), None)
            if match is not None:
                chosen[port.name] = match
    _refuse_leftovers(declared, ports, tensors, chosen)
    kinds = {port.name: port.kind for port in ports}
    return tuple(_bind_input(declared, n, t, kinds.get(n)) for n, t in chosen.items())


def bind_outputs(declared: Declared, tensors: Sequence[GraphTensor]) -> tuple[Bound, ...]:
    """The outputs that the family knows, under its names; others are left out.

    Args:
        declared: what the manifest says.
        tensors: the outputs as a run gave them, so that every dimension is known.

    Raises:
        InvalidNetwork: an output that the family needs is not there, or has another shape.
    """
    ports = declared.signature.outputs if declared.signature else ()
    chosen = _by_name(declared, ports, tensors, declared.outputs, "output")
    for port in ports:
        if port.name not in chosen and port.required:
            free = [t for t in tensors if t.name not in {c.name for c in chosen.values()}]
            chosen[port.name] = _pick_output(declared, port, free)
    if ports and not chosen:
        raise InvalidNetwork(
            f"network '{declared.name}' gives {_listed(tensors)}; which of "
            f"{[p.name for p in ports]} that is, its shape does not tell: map it with `outputs`"
        )
    kinds = {port.name: port.kind for port in ports}
    return tuple(_bind_output(declared, n, t, kinds.get(n)) for n, t in chosen.items())


def _by_name(
    declared: Declared,
    ports: Sequence[Port],
    tensors: Sequence[GraphTensor],
    mapping: Mapping[str, str],
    what: str,
) -> dict[str, GraphTensor]:
    known = {tensor.name: tensor for tensor in tensors}
    absent = [name for name in mapping.values() if name not in known]
    if absent:
        raise InvalidNetwork(
            f"the manifest maps to {what} '{absent[0]}' of network '{declared.name}', which has "
            f"{_listed(tensors)}"
        )
    chosen = {logical: known[name] for logical, name in mapping.items()}
    taken = set(mapping.values())
    names = [port.name for port in ports] if declared.signature else list(known)
    for name in names:
        if name in known and name not in chosen and name not in taken:
            chosen[name] = known[name]
    return chosen


def _could_be(kind: Kind, tensor: GraphTensor) -> bool:
    rank = len(tensor.shape)
    if kind in (Kind.IMAGE, Kind.LATENT):
        return tensor.is_float and rank >= 2
    if kind is Kind.TIME:
        return rank <= 1 or (rank == 2 and tensor.shape[1] == 1)
    if kind is Kind.LABEL:
        return rank == 2 if tensor.is_float else rank in (1, 2)
    if kind is Kind.TOKENS:
        return not tensor.is_float and rank == 2 and tensor.shape[1] != 1
    return tensor.is_float


def _refuse_leftovers(
    declared: Declared,
    ports: Sequence[Port],
    tensors: Sequence[GraphTensor],
    chosen: Mapping[str, GraphTensor],
) -> None:
    missing = [p.name for p in ports if p.required and p.name not in chosen]
    used = {tensor.name for tensor in chosen.values()}
    left = [tensor for tensor in tensors if tensor.name not in used]
    if missing:
        raise InvalidNetwork(
            f"network '{declared.name}' needs an input {missing[0]!r} and takes "
            f"{_listed(tensors)}; map it with `inputs` in the manifest"
        )
    if left:
        raise InvalidNetwork(
            f"network '{declared.name}' takes {left[0]}, which is none of "
            f"{[p.name for p in ports]}; map it with `inputs`, or export without it"
        )


def _bind_input(declared: Declared, name: str, tensor: GraphTensor, kind: Kind | None) -> Bound:
    what = f"input '{tensor.name}' of network '{declared.name}'"
    given = declared.shapes.get(name)
    row: Dims = tuple(given) if given is not None else tensor.shape[1:]
    if tensor.shape[1:] and not _agree(row, tensor.shape[1:]):
        raise InvalidNetwork(f"{what} is {tensor}; the manifest gives it rows of {list(row)}")
    cast = partial(_cast, dtype=tensor.dtype)
    if kind is Kind.IMAGE:
        layout = find_layout(row, declared.frame, declared.image_layout, what)
        spec = TensorSpec(declared.frame.shape, torch.float32)
        return Bound(name, tensor.name, spec, lambda x: cast(layout.to_graph(x)))
    if kind is Kind.LABEL and len(row) == 1 and row[0] is not None and row[0] > 1:
        one_hot = partial(_one_hot, classes=row[0], dtype=tensor.dtype)
        return Bound(name, tensor.name, TensorSpec((), torch.int64), one_hot, classes=row[0])
    if kind in (Kind.LABEL, Kind.TIME, Kind.NUMBER):
        dtype = torch.int64 if kind is Kind.LABEL else torch.float32
        rank = len(tensor.shape)
        return Bound(name, tensor.name, TensorSpec((), dtype), lambda x: _ranked(cast(x), rank))
    if None in row or (given is None and not tensor.shape):
        raise InvalidNetwork(
            f"{what} leaves its shape open ({tensor}); say it with `shapes: {{{name}: [...]}}` "
            "beside the file's name in the manifest"
        )
    return Bound(name, tensor.name, TensorSpec(row, _plain(tensor.dtype)), cast)


def _pick_output(declared: Declared, port: Port, free: Sequence[GraphTensor]) -> GraphTensor:
    if port.kind is not Kind.IMAGE:
        match = next((tensor for tensor in free if tensor.is_float), None)
        if match is not None:
            return match
    refusal: InvalidNetwork | None = None
    images = free if port.kind is Kind.IMAGE else ()
    for tensor in sorted(images, key=lambda t: -len(t.shape)):  # a flat one may be the features
        try:
            _bind_output(declared, port.name, tensor, port.kind)
        except InvalidNetwork as error:
            refusal = refusal or error
        else:
            return tensor
    raise refusal or InvalidNetwork(
        f"network '{declared.name}' needs an output {port.name!r} and gives {_listed(free)}; "
        "map it with `outputs` in the manifest"
    )


def _bind_output(declared: Declared, name: str, tensor: GraphTensor, kind: Kind | None) -> Bound:
    what = f"output '{tensor.name}' of network '{declared.name}'"
    if not tensor.shape:
        raise InvalidNetwork(f"{what} has no batch dimension")
    row, dtype = tensor.shape[1:], _plain(tensor.dtype)
    cast = partial(_cast, dtype=torch.float32 if kind is Kind.IMAGE else dtype)
    if kind is Kind.IMAGE:
        layout = find_layout(row, declared.frame, declared.image_layout, what)
        spec = TensorSpec(declared.frame.shape, torch.float32)
        return Bound(name, tensor.name, spec, lambda x: layout.from_graph(cast(x)))
    if kind is Kind.NUMBER:
        if any(d not in (None, 1) for d in row):
            raise InvalidNetwork(f"{what} must be one number a row, not {tensor}")
        spec = TensorSpec((), dtype)
        return Bound(name, tensor.name, spec, lambda x: cast(x).reshape(len(x)))
    return Bound(name, tensor.name, TensorSpec(row, dtype), cast)


def _agree(row: Dims, declared: Dims) -> bool:
    if declared == (None,):
        return True
    pairs = zip(row, declared, strict=False)
    return len(row) == len(declared) and all(d in (None, r) for r, d in pairs)


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else values.to(dtype)


def _one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return functional.one_hot(labels.long(), classes).to(dtype)


def _ranked(values: Tensor, rank: int) -> Tensor:
    """``[n]`` as ``[n]``, ``[n, 1]`` or, for a batch of one, ``[]``."""
    return values.reshape(()) if rank == 0 else values.reshape(len(values), *[1] * (rank - 1))


def _plain(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else torch.int64


def _listed(tensors: Sequence[GraphTensor]) -> str:
    return "; ".join(str(tensor) for tensor in tensors) or "nothing"
