"""What is known of an image: who made it, of what, and how to make it again."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from services.core.job import Call, Item, Task

SOFTWARE: Final = "Atelier"
SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""The IPTC's vocabulary of digital source types."""
GENERATED: Final = f"{SOURCE_TYPES}trainedAlgorithmicMedia"
COMPOSED: Final = f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"

MOST_PARAMETER_BYTES = 32 << 10
"""All parameters as JSON; JPEG keeps them in a segment of 64 KiB."""
PROMPTS: Final = frozenset(
    {"prompt", "negative_prompt", "prompts", "source_prompt", "end_prompt", "revised_prompt"}
)

_STRIPS: Final = frozenset({"interpolate", "traverse"})
_OF_SEVERAL: Final = _STRIPS | {"style_mix"}
"""Operations each of whose images is made from all that came."""
"""Operations whose images make one strip: each of them comes from all that was given."""
_CASCADE = "cascade"


@cache
def version() -> str:
    """Of this software."""
    return importlib.metadata.version("atelier")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one image.

    Attributes:
        model: its id.
        models: the SHA-256 of every model that took part, by id: of its manifest, which names the
            digests of all its files.
        task: what was asked.
        operation: of an edit.
        row: the image's place in the answer.
        parameters: as the client gave them, in the words of the native routes.
        values: what the model says of the image, its seed above all.
        sources: the uploaded images that it was made from, the first of them before all others.
        guides: uploaded images that only guided the model.
    """

    model: str
    models: Mapping[str, str]
    task: Task
    operation: str | None
    row: int
    parameters: Mapping[str, Any]
    values: Mapping[str, Any]
    sources: tuple[bytes, ...] = ()
    guides: tuple[bytes, ...] = ()

    @property
    def digital_source_type(self) -> str:
        """The IPTC's word for it."""
        return COMPOSED if self.sources else GENERATED

    @property
    def title(self) -> str:
        """A short name for people."""
        seed = self.values.get("seed")
        return self.model if seed is None else f"{self.model} {seed}"

    def for_the_manifest(self, *, prompts: bool) -> dict[str, Any]:
        """What stands in the signed manifest: no prompt, unless the operator wants it there."""
        adapters = [use["name"] for use in self.parameters.get("adapters", ())]
        found: dict[str, Any] = {
            "model": self.model,
            "models": [{"id": name, "sha256": sha} for name, sha in self.models.items()],
            "task": self.task.value,
            "software": f"{SOFTWARE} {version()}",
        }
        if self.operation is not None:
            found["operation"] = self.operation
        if adapters:
            found["adapters"] = adapters
        if prompts:
            found |= {k: v for k, v in self.parameters.items() if k in PROMPTS}
        return found

    def for_the_file(self) -> str:
        """Everything that makes the image again, as JSON of ASCII characters alone.

        ``request`` is the body that asks for this very image; an edit needs its images beside it.
        Where its model was asked for several that cannot be had one by one, ``index`` says which of
        them this is. What is too large to keep is named in ``omitted``.
        """
        request, index = self._request()
        told = {k: v for k, v in self.values.items() if k in ("seed", "revised_prompt")}
        kept, omitted = _within(request, MOST_PARAMETER_BYTES)
        body: dict[str, Any] = {
            "software": f"{SOFTWARE} {version()}",
            "model": self.model,
            "model_sha256": self.models.get(self.model, ""),
            "task": self.task.value,
            **told,
            "request": kept,
        }
        if index is not None:
            body["index"] = index
        if omitted:
            body["omitted"] = omitted
        return json.dumps(body, ensure_ascii=True, allow_nan=False)

    def _request(self) -> tuple[dict[str, Any], int | None]:
        parameters = dict(self.parameters)
        index: int | None = None
        if self.operation in _STRIPS:
            index = self.row
        elif "seed" in self.values:
            parameters.pop("n", None)
            parameters["seed"] = self.values["seed"]
        elif parameters.get("n", 1) != 1:
            index = self.row
        operation = {} if self.operation is None else {"operation": self.operation}
        return {"model": self.model, **operation, **parameters}, index


def _within(fields: Mapping[str, Any], most: int) -> tuple[dict[str, Any], list[str]]:
    """Fields of at most so many bytes of JSON; the largest are left out first."""
    sizes = {name: len(json.dumps({name: value})) for name, value in fields.items()}
    omitted: list[str] = []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if sum(sizes.values()) <= most:
            break
        omitted.append(name)
        del sizes[name]
    return {name: fields[name] for name in fields if name in sizes}, omitted


def record_of(
    call: Call, row: int, item: Item, models: Mapping[str, str], *, rows: int | None
) -> Record:
    """What is known of one image of an answer.

    Args:
        call: what was asked.
        row: the image's place.
        item: the image.
        models: the digests of the models that took part.
        rows: how many images there are; ``None`` where that is not known yet.
    """
    return Record(
        model=call.model,
        models=models,
        task=call.task,
        operation=call.operation,
        row=row,
        parameters=call.parameters,
        values=item.values,
        sources=_sources(call, row, rows),
        guides=call.controls,
    )


def _sources(call: Call, row: int, rows: int | None) -> tuple[bytes, ...]:
    """The images that a row was made from: its own where each image makes a row."""
    each = rows in (None, len(call.images)) and call.operation not in _OF_SEVERAL
    if len(call.images) > 1 and each and row < len(call.images):
        return (call.images[row],)
    return call.images


def models_of(call: Call) -> Sequence[str]:
    """The ids of the models that a call asks."""
    enlarger = call.parameters.get(_CASCADE)
    return (call.model, enlarger) if isinstance(enlarger, str) else (call.model,)
