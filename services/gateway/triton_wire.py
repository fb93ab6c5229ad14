"""Inference requests and answers of the Open Inference Protocol (KServe v2), as bytes.

JSON, and beside it the binary tensor extension: tensors stand behind the JSON in the order in which
it names them, and ``Inference-Header-Content-Length`` says where the JSON ends.
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.core.errors import BadRequest, InvalidParameter
from services.core.validation import explain
from services.gateway.answers import finite
from services.gateway.settings import GatewaySettings
from services.gateway.strict_json import parse_object

HEADER_LENGTH = "inference-header-content-length"
BYTES = "BYTES"
NUMBERS: Final[Mapping[str, np.dtype[Any]]] = {
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatypes and their little-endian form; `BYTES` is the one that is none of these."""

MAX_TENSORS = 16
MAX_RANK = 6
MAX_DIMENSION = 1 << 24
MAX_ELEMENTS = 1024
"""Of a ``BYTES`` tensor: prompts, names and files, of which nobody needs more."""
_LENGTH = struct.Struct("<I")
_SHOWN = 60

Scalar = str | bool | int | float
Name = Annotated[str, Field(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array, row-major; of ``BYTES``, an array of `bytes` objects."""

    name: str
    datatype: str
    values: NDArray[Any]


class TensorParameters(BaseModel):
    """What may stand beside a tensor; what other servers add there is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    shared_memory_region: str | None = None
    classification: int | None = None


class RequestedInput(BaseModel):
    """A tensor of a request: its values in ``data``, or as so many bytes behind the JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    shape: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_DIMENSION)]],
        Field(min_length=1, max_length=MAX_RANK),
    ]
    datatype: Annotated[str, Field(max_length=16, description="UINT8, INT64, FP32, FP64 or BYTES.")]
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """A tensor that is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    parameters: TensorParameters = TensorParameters()


class InferRequest(BaseModel):
    """The JSON of ``POST /v2/models/{model}/infer``.

    ``parameters`` are those of the operation that is asked for, by the names of the native routes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(max_length=128)] | None = None
    parameters: Annotated[dict[Name, Scalar], Field(max_length=64)] = {}
    inputs: Annotated[list[RequestedInput], Field(max_length=MAX_TENSORS)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=MAX_TENSORS)] = []


@dataclass(frozen=True, slots=True)
class Inference:
    """A request that was read: its JSON, and its tensors by name."""

    asked: InferRequest
    tensors: Mapping[str, Tensor]

    def is_binary(self, output: str) -> bool:
        """Whether an output leaves as bytes; said of it, of all outputs, or not at all: then no."""
        for wanted in self.asked.outputs:
            if wanted.name == output and wanted.parameters.binary_data is not None:
                return wanted.parameters.binary_data
        return self.asked.parameters.get("binary_data_output") is True


def read_inference(body: bytes, header_length: str | None, settings: GatewaySettings) -> Inference:
    """Read a request.

    Args:
        body: JSON, and tensors behind it where ``header_length`` is given.
        header_length: bytes of the JSON, as the header says.
        settings: bounds of the JSON.

    Raises:
        BadRequest: the header is no length within the body, or bytes are missing or left over.
        InvalidParameter: a field or a tensor is not what it must be.
    """
    end = _header_end(header_length, len(body))
    fields = parse_object(
        body[:end], max_depth=settings.max_json_depth, max_values=settings.max_json_values
    )
    try:
        asked = InferRequest.model_validate(fields)
    except ValidationError as error:
        raise explain(error, allowed=InferRequest.model_fields) from error
    _check_outputs(asked.outputs)
    tensors: dict[str, Tensor] = {}
    rest = memoryview(body)[end:]
    for given in asked.inputs:
        if given.name in tensors:
            raise InvalidParameter(f"the input '{given.name}' is given twice", param=given.name)
        size = given.parameters.binary_data_size or 0
        if size > len(rest):
            raise BadRequest(
                f"input '{given.name}' has {size} bytes of binary data; the body holds {len(rest)}"
            )
        tensors[given.name] = Tensor(given.name, given.datatype, _values(given, rest[:size]))
        rest = rest[size:]
    if len(rest):
        raise BadRequest(f"the body holds {len(rest)} bytes that belong to no input")
    return Inference(asked, tensors)


def _header_end(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not (given.isascii() and given.isdigit() and len(given) < 12 and 0 < int(given) <= size):
        raise BadRequest(
            f"{HEADER_LENGTH} must be the length of the JSON at the start of the body, from 1 to "
            f"{size}, got {given[:_SHOWN]!a}"
        )
    return int(given)


def _check_outputs(outputs: Sequence[RequestedOutput]) -> None:
    seen: set[str] = set()
    for output in outputs:
        if output.name in seen:
            raise InvalidParameter(f"the output '{output.name}' is given twice", param=output.name)
        seen.add(output.name)
        _refuse_shared_memory(output.name, output.parameters)
        if output.parameters.classification:
            raise InvalidParameter(
                f"'{output.name}': there is no classification extension here", param=output.name
            )


def _refuse_shared_memory(name: str, parameters: TensorParameters) -> None:
    if parameters.shared_memory_region is not None:
        raise InvalidParameter(
            f"'{name}': there is no shared memory extension here; send the values", param=name
        )


def _values(given: RequestedInput, raw: memoryview) -> NDArray[Any]:
    """The values of an input, whichever way they were sent.

    Raises:
        InvalidParameter: they are not what its shape and datatype say.
    """
    _refuse_shared_memory(given.name, given.parameters)
    is_binary = given.parameters.binary_data_size is not None
    if is_binary == (given.data is not None):
        raise _wrong(given, "needs its values in 'data' or as 'binary_data_size' bytes, not both")
    if given.datatype != BYTES and given.datatype not in NUMBERS:
        known = ", ".join([*NUMBERS, BYTES])
        raise _wrong(given, f"has a datatype that is none of {known}")
    count = math.prod(given.shape)
    if count == 0:
        raise _wrong(given, f"is empty: its shape is {given.shape}")
    if given.datatype == BYTES and count > MAX_ELEMENTS:
        raise _wrong(given, f"has {count} elements of BYTES; the limit is {MAX_ELEMENTS}")
    if not is_binary:
        flat = _listed(given, count)
    elif given.datatype == BYTES:
        flat = _texts(given, list(islice(_elements(given, raw), count + 1)), count)
    else:
        flat = _numbers(given, raw, count)
    return flat.reshape(given.shape)


def _wrong(given: RequestedInput, what: str) -> InvalidParameter:
    return InvalidParameter(f"input '{given.name}' {what}", param=given.name)


def _wrong_count(given: RequestedInput, found: int, count: int) -> InvalidParameter:
    return _wrong(given, f"has {found} values; its shape {given.shape} needs {count}")


def _numbers(given: RequestedInput, raw: memoryview, count: int) -> NDArray[Any]:
    kind = NUMBERS[given.datatype]
    if len(raw) != count * kind.itemsize:
        needed = count * kind.itemsize
        raise _wrong(given, f"has {len(raw)} bytes; shape {given.shape} of {given.datatype} needs "
                            f"{needed}")  # fmt: skip
    return _finite(given, np.frombuffer(raw, dtype=kind))


def _finite(given: RequestedInput, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _wrong(given, f"must hold finite {given.datatype} numbers")
    return values


def _elements(given: RequestedInput, raw: memoryview) -> Iterator[bytes]:
    """Elements of a ``BYTES`` tensor: each a length in four bytes, and so many bytes."""
    at = 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise _wrong(given, "ends within the length of an element")
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + size > len(raw):
            raise _wrong(given, f"has an element of {size} bytes; only {len(raw) - at} are left")
        yield bytes(raw[at : at + size])
        at += size


def _texts(given: RequestedInput, elements: Sequence[bytes], count: int) -> NDArray[Any]:
    if len(elements) != count:
        raise _wrong_count(given, len(elements), count)
    flat = np.empty(count, dtype=object)
    flat[:] = elements
    return flat


def _listed(given: RequestedInput, count: int) -> NDArray[Any]:
    """Values that stand in the JSON, flat or nested as the shape is."""
    flat = list(_flattened(given.data))
    if len(flat) != count:
        raise _wrong_count(given, len(flat), count)
    if given.datatype == BYTES:
        if not all(isinstance(value, str) for value in flat):
            raise _wrong(given, "must hold strings: its datatype is BYTES")
        return _texts(given, [value.encode() for value in flat], count)
    kind = NUMBERS[given.datatype]
    fits: type | tuple[type, ...] = (int, float) if kind.kind == "f" else int
    if not all(isinstance(value, fits) and not isinstance(value, bool) for value in flat):
        raise _wrong(given, f"must hold numbers of {given.datatype}")
    if kind.kind != "f":
        bounds = np.iinfo(kind)
        if not all(bounds.min <= value <= bounds.max for value in flat):
            raise _wrong(given, f"must hold integers from {bounds.min} to {bounds.max}")
        return np.array(flat, dtype=kind)
    with np.errstate(over="ignore"):
        return _finite(given, np.array(flat, dtype=np.float64).astype(kind))


def _flattened(value: Any) -> Iterator[Any]:
    """The leaves of nested lists; how deep they may be was checked when they were parsed."""
    if not isinstance(value, list):
        yield value
        return
    for child in value:
        yield from _flattened(child)


def write_inference(
    head: Mapping[str, Any], outputs: Sequence[tuple[Tensor, bool]]
) -> tuple[bytes, int | None]:
    """An answer as bytes.

    Args:
        head: the fields beside ``outputs``.
        outputs: each tensor, and whether it is binary.

    Returns:
        The body, and the length of the JSON at its start where tensors stand behind it.
    """
    described: list[dict[str, Any]] = []
    raws: list[bytes] = []
    for tensor, is_binary in outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
        }
        if is_binary:
            raws.append(_raw(tensor))
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            entry["data"] = _plain(tensor)
        described.append(entry)
    text = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return b"".join([text, *raws]), len(text) if raws else None


def _raw(tensor: Tensor) -> bytes:
    if tensor.datatype == BYTES:
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.values.ravel())
    return np.ascontiguousarray(tensor.values, dtype=NUMBERS[tensor.datatype]).tobytes()


def _plain(tensor: Tensor) -> list[Any]:
    flat = tensor.values.ravel().tolist()
    if tensor.datatype == BYTES:
        return [value.decode() for value in flat]
    found: list[Any] = finite(flat)
    return found
