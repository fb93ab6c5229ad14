"""Which tensors a model takes and gives, in the words of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.core.errors import InvalidParameter
from services.core.job import Task
from services.core.model import ModelInfo
from services.gateway.triton_wire import BYTES, Inference, Tensor

ANY = -1


@dataclass(frozen=True, slots=True)
class TensorKind:
    """What a tensor must be; ``shape`` holds `ANY` where a dimension is free, rows come first."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    free_rank: bool = False
    """Whether dimensions may follow that the metadata cannot tell."""

    def check(self, tensor: Tensor) -> None:
        """Compare a tensor with what it must be.

        Raises:
            InvalidParameter: it has another datatype or shape.
        """
        if tensor.datatype != self.datatype:
            raise InvalidParameter(
                f"input '{self.name}' must be {self.datatype}, got {tensor.datatype[:16]}",
                param=self.name,
            )
        given = tensor.values.shape
        ranks = len(given) >= len(self.shape) if self.free_rank else len(given) == len(self.shape)
        if not ranks or any(n not in (ANY, m) for n, m in zip(self.shape, given, strict=False)):
            more = " and more" if self.free_rank else ""
            raise InvalidParameter(
                f"input '{self.name}' has shape {list(given)}; it must be "
                f"{list(self.shape)}{more}, where {ANY} is any number",
                param=self.name,
            )

    def described(self) -> dict[str, Any]:
        """As the model's metadata lists it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


ROWS: Final = (ANY,)
_TEXTS = (
    TensorKind("prompt", BYTES, ROWS),
    TensorKind("negative_prompt", BYTES, ROWS),
)
_LABELS = (
    TensorKind("label", "INT64", ROWS),
    TensorKind("label_name", BYTES, ROWS),
)
_SEED = TensorKind("seed", "INT64", ROWS)
_LATENTS = TensorKind("latents", "FP32", (ANY, ANY), free_rank=True)
_IMAGE_FILE = TensorKind("image_file", BYTES, ROWS)
_MASK = TensorKind("mask", "UINT8", (1, ANY, ANY, 1))

_JUDGED = (
    TensorKind("log_likelihood", "FP64", ROWS),
    TensorKind("bits_per_dim", "FP64", ROWS),
    TensorKind("std_error", "FP64", ROWS),
    TensorKind("kind", BYTES, ROWS),
)


def _image(model: ModelInfo) -> TensorKind:
    return TensorKind("image", "UINT8", (ANY, ANY, ANY, model.channels))


def _images_of(schema: Mapping[str, Any]) -> Sequence[int]:
    """The fewest and the most images of an operation; one may come, where it says nothing."""
    found: Sequence[int] = schema.get("x-images", (0, 1))
    return found


def inputs_of(model: ModelInfo) -> tuple[TensorKind, ...]:
    """Every tensor that a model can be given; which of them depends on what is asked for."""
    others = (o for name, o in model.operations.items() if name != Task.GENERATE.value)
    images = any(most for _, most in map(_images_of, others))
    draws = model.operations.get(Task.GENERATE.value, {}).get("properties", {})
    return (
        *(_LABELS if "label" in model.conditioning else ()),
        *(_TEXTS if "text" in model.conditioning else ()),
        _SEED,
        *((_LATENTS,) if "latents" in draws else ()),
        *((_image(model), _IMAGE_FILE) if images else ()),
        *((_MASK,) if "inpaint" in model.operations else ()),
    )


def outputs_of(model: ModelInfo) -> Mapping[Task, tuple[TensorKind, ...]]:
    """What a model gives, for each task."""
    images = (_image(model), _SEED)
    every = {
        Task.GENERATE: images,
        Task.EDIT: images,
        Task.LIKELIHOOD: _JUDGED,
        Task.ENCODE: (_LATENTS,),
    }
    return {task: kinds for task, kinds in every.items() if task.value in model.tasks}


def known_inputs(model: ModelInfo, tensors: Mapping[str, Tensor]) -> None:
    """Check every tensor of a request by its name, datatype and shape.

    Raises:
        InvalidParameter: one is not among the model's inputs, or is not what it must be.
    """
    kinds = {kind.name: kind for kind in inputs_of(model)}
    for name, tensor in tensors.items():
        if name not in kinds:
            raise InvalidParameter(
                f"{model.id} has no input {name[:64]!a}; it takes {', '.join(kinds)}",
                param=name[:64],
            )
        kinds[name].check(tensor)


def operation_of(model: ModelInfo, inference: Inference) -> str:
    """What is asked for: the parameter ``operation``, else what the outputs and inputs imply.

    Raises:
        InvalidParameter: images came, and nothing says what to do with them.
    """
    named = inference.asked.parameters.get("operation")
    if named is not None:
        if not isinstance(named, str):
            raise InvalidParameter("'operation' must be a string", param="operation")
        return named
    wanted = {output.name for output in inference.asked.outputs}
    if wanted & {kind.name for kind in _JUDGED}:
        return Task.LIKELIHOOD.value
    if _LATENTS.name in wanted:
        return Task.ENCODE.value
    if not {"image", _IMAGE_FILE.name} & set(inference.tensors):
        return Task.GENERATE.value
    if not wanted and Task.LIKELIHOOD.value in model.operations:
        return Task.LIKELIHOOD.value
    raise InvalidParameter(
        f"say what to do with the image: parameter 'operation', one of {_listed(model.operations)}",
        param="operation",
    )


def task_of(operation: str) -> Task:
    """The task that an operation belongs to; what is no task of its own is an edit."""
    return Task(operation) if operation in set(Task) - {Task.EDIT} else Task.EDIT


def wanted_outputs(model: ModelInfo, operation: str, inference: Inference) -> tuple[str, ...]:
    """The names of the outputs to answer with, in the order asked for; all where none is named.

    Raises:
        InvalidParameter: one is not among the operation's outputs.
    """
    task = task_of(operation)
    given = [kind.name for kind in outputs_of(model).get(task, ())]
    wanted = [output.name for output in inference.asked.outputs]
    for name in wanted:
        # A task that the model lacks is refused by the backend, which knows why.
        if given and name not in given:
            raise InvalidParameter(
                f"'{operation[:64]}' of {model.id} has no output {name!a}; it gives "
                f"{_listed(given)}",
                param=name,
            )
    return tuple(wanted or given)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
