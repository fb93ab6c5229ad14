"""From tensors to calls, and from answers to tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.core import images as codec
from services.core.errors import AtelierError, InvalidParameter, TooLarge
from services.core.images import ImageLimits
from services.core.job import Answer, Call, Encoding, Item, Task
from services.core.model import ModelInfo
from services.core.parameters import MAX_SEED, Latents
from services.gateway.exchange import Exchange, Gateway
from services.gateway.intake import Payload, build_call, parse
from services.gateway.schemas import (
    CallRequest,
    EditRequest,
    EncodeRequest,
    GenerateRequest,
    LikelihoodRequest,
)
from services.gateway.strict_json import check_text
from services.gateway.triton_tensors import task_of
from services.gateway.triton_wire import BYTES, Inference, Tensor

SCHEMAS: Final[Mapping[Task, type[CallRequest]]] = {
    Task.GENERATE: GenerateRequest,
    Task.EDIT: EditRequest,
    Task.LIKELIHOOD: LikelihoodRequest,
    Task.ENCODE: EncodeRequest,
}

_IMAGES: Final = frozenset({"image", "image_file", "mask"})
TRITONS_OWN: Final = frozenset({"operation", "binary_data_output", "priority", "timeout"})
"""Parameters that are not the operation's; nothing here has priorities."""
NOT_PARAMETERS: Final = frozenset(
    {"model", "image", "images", "mask", "latents", "size", "response", "preview_every"}
    | {"output_format", "output_compression", "metadata"}
)
"""Fields of the native routes that are tensors here, or that an answer of tensors leaves no use."""

MICROSECONDS = 1e6
_PNG = Encoding("png")


def calls_of(
    gateway: Gateway,
    exchange: Exchange,
    model: ModelInfo,
    operation: str,
    inference: Inference,
) -> list[Call]:
    """The calls that a request comes to: one, or one for each row of what images are made from.

    Raises:
        InvalidParameter, TooLarge, InvalidImage, UnsupportedMedia: as for the native routes.
    """
    task = task_of(operation)
    common = _parameters(inference.asked.parameters)
    if task is Task.EDIT:
        common["operation"] = operation
    tensors = dict(inference.tensors)
    images, mask = _files(tensors), _mask(tensors)
    if task is Task.GENERATE and images:
        raise InvalidParameter("'generate' takes no image; name an operation that does")
    if {"label", "label_name"} <= set(tensors):
        raise InvalidParameter("give either 'label' or 'label_name'", param="label_name")
    per_row = {name: tensor for name, tensor in tensors.items() if name not in _IMAGES}
    rows = max([1, *(len(tensor.values) for tensor in per_row.values())])
    if task is not Task.GENERATE:
        rows = 1
    elif rows > 1:
        _check_rows(per_row, rows, common, gateway.settings.max_images)
    calls = []
    for row in range(rows):
        own = _row(per_row, row) if task is Task.GENERATE else _once(per_row)
        _only_once(common, own)
        fields = {"model": model.id, **common, **own}
        payload = Payload(fields, tuple(images), mask)
        asked = parse(SCHEMAS[task], payload)
        call = build_call(gateway, exchange, asked, payload, task=task, encoding=_PNG)
        calls.append(replace(call, provenance=False))
    return calls if rows == 1 else _apart(calls, tensors.get("seed"))


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The operation's own parameters; Triton's timeout becomes a deadline."""
    for name in given:
        if name in NOT_PARAMETERS:
            raise InvalidParameter(f"'{name}' is no parameter here", param=name)
        if name.startswith("sequence_"):
            raise InvalidParameter("there are no sequences here: no model has state", param=name)
    found = {name: value for name, value in given.items() if name not in TRITONS_OWN}
    timeout = given.get("timeout")
    if timeout is None:
        return found
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 1:
        raise InvalidParameter("'timeout' is in microseconds, 1 or more", param="timeout")
    if "deadline" in found:
        raise InvalidParameter("give either 'timeout' or 'deadline'", param="timeout")
    return {**found, "deadline": timeout / MICROSECONDS}


def _files(tensors: Mapping[str, Tensor]) -> list[bytes]:
    if "image" in tensors and "image_file" in tensors:
        raise InvalidParameter("give either 'image' or 'image_file'", param="image_file")
    if "image" in tensors:
        return [_png(pixels) for pixels in tensors["image"].values]
    return list(tensors["image_file"].values) if "image_file" in tensors else []


def _mask(tensors: Mapping[str, Tensor]) -> bytes | None:
    return _png(tensors["mask"].values[0]) if "mask" in tensors else None


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels ``[height, width, channels]`` as a file, which is how images travel to engines."""
    return codec.encode(pixels.transpose(2, 0, 1), _PNG)


def _only_once(parameters: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    for name in inputs:
        if name in parameters:
            raise InvalidParameter(
                f"'{name}' is given both as an input and as a parameter", param=name
            )


def _once(per_row: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of an operation that takes each of them once; but latents may be two ends."""
    found: dict[str, Any] = {}
    for name, tensor in per_row.items():
        if name == "latents":
            found["latents"] = [_latents(values) for values in tensor.values]
        elif len(tensor.values) > 1:
            raise InvalidParameter(
                f"input '{name}' has {len(tensor.values)} rows; this operation takes one",
                param=name,
            )
        else:
            found |= _field(name, tensor.values[0])
    return found


def _check_rows(
    per_row: Mapping[str, Tensor], rows: int, common: Mapping[str, Any], most: int
) -> None:
    if rows > most:
        raise TooLarge(f"{rows} rows; the limit is {most}", param="inputs")
    if common.get("n", 1) != 1:
        raise InvalidParameter("each row makes one image: leave 'n' out", param="n")
    for name, tensor in per_row.items():
        if len(tensor.values) not in (1, rows):
            raise InvalidParameter(
                f"input '{name}' has {len(tensor.values)} rows; others have {rows}", param=name
            )


def _row(per_row: Mapping[str, Tensor], row: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tensor in per_row.items():
        value = tensor.values[row if len(tensor.values) > 1 else 0]
        found |= {"latents": _latents(value)} if name == "latents" else _field(name, value)
    return found


def _field(name: str, value: Any) -> dict[str, Any]:
    """One value of an input as the native routes' field."""
    if not isinstance(value, bytes):
        return {name: int(value)}
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"input '{name}' is not UTF-8", param=name) from error
    check_text(text, name)
    return {"label" if name == "label_name" else name: text}


def _latents(values: NDArray[np.float32]) -> dict[str, Any]:
    try:
        return Latents.from_array(values).model_dump()
    except ValueError as error:
        raise TooLarge(f"one row of 'latents' has {values.size} values", param="latents") from error


def _apart(calls: Sequence[Call], seeds: Tensor | None) -> list[Call]:
    """Calls of a batch with ids of their own; row i has seed + i unless each row names its own."""
    own = seeds is not None and len(seeds.values) > 1
    first = calls[0].parameters["seed"]
    if not own and first > MAX_SEED - len(calls):
        raise InvalidParameter(f"'seed' must leave room for {len(calls)} rows", param="seed")
    return [
        replace(
            call,
            id=f"{call.id}.{row}",
            parameters=call.parameters if own else {**call.parameters, "seed": first + row},
        )
        for row, call in enumerate(calls)
    ]


def tensors_of(
    answers: Sequence[Answer], task: Task, model: ModelInfo, limits: ImageLimits
) -> dict[str, Tensor]:
    """Every output that answers hold, by name.

    Raises:
        AtelierError: the answers are not what the task gives; a bug.
    """
    items = [item for answer in answers for item in answer.items]
    if task is Task.LIKELIHOOD:
        return _judged(items)
    if task is Task.ENCODE:
        rows = [Latents.model_validate(item.values["latents"]).array() for item in items]
        return {"latents": Tensor("latents", "FP32", np.stack(rows))}
    files = [item.image for item in items if item.image is not None]
    if not files or len(files) != len(items):
        raise AtelierError("an answer without an image; this is a bug")
    pixels = [codec.decode(data, None, model.channels, limits) for data in files]
    found = {"image": Tensor("image", "UINT8", np.stack(pixels).transpose(0, 2, 3, 1))}
    if all("seed" in item.values for item in items):
        seeds = np.array([item.values["seed"] for item in items], dtype=np.int64)
        found["seed"] = Tensor("seed", "INT64", seeds)
    return found


def _judged(items: Sequence[Item]) -> dict[str, Tensor]:
    """Numbers of likelihoods; NaN where an estimate cannot tell its own error."""
    found = {}
    for name in ("log_likelihood", "bits_per_dim", "std_error"):
        given = [item.values.get(name) for item in items]
        numbers = [math.nan if value is None else value for value in given]
        found[name] = Tensor(name, "FP64", np.array(numbers, dtype=np.float64))
    kinds = np.empty(len(items), dtype=object)
    kinds[:] = [str(item.values["kind"]).encode() for item in items]
    return {**found, "kind": Tensor("kind", BYTES, kinds)}
