"""What a bulk job is to make: which samples, in which order, in which shards.

A plan is a pure function of the request: whoever asks for the same gets the same samples in the
same places, and a second attempt goes on where the first one stopped.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.core.job import ImageFormat
from services.core.parameters import Seed

MOST_SHARD_SAMPLES = 10_000
SHARD_PIXEL_BYTES = 64 << 20
"""A shard is held in memory until it is written; one of large images has fewer of them."""
USUAL_SHARD_SAMPLES = 1_000
KEY_DIGITS = 9

Fields = Annotated[
    dict[Annotated[str, Field(max_length=64)], Any],
    Field(max_length=64, description="Fields of POST /v1/generate, without its model."),
]


class BulkRequest(BaseModel):
    """Thousands of images by one model, as a labelled dataset.

    Attributes:
        model: which.
        common: fields of generate that all samples share.
        grid: fields of generate, each with the values that it takes: every combination is made,
            the last field changing fastest.
        requests: in place of a grid, each sample's own fields, or those of ``n`` samples.
        n: samples of each combination; sample i has ``seed`` + i.
        seed: of the first sample of each combination. Of a list, where a request names no seed: of
            its first sample, plus the samples before it.
        output_format: of the images.
        output_compression: quality of JPEG and WebP in [0, 100].
        shard_size: samples in one file of the dataset, at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=128)]
    common: Fields = {}
    grid: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[list[Any], Field(min_length=1)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    requests: Annotated[list[Fields], Field(min_length=1)] | None = None
    n: Annotated[int, Field(ge=1)] = 1
    seed: Seed = 0
    output_format: ImageFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    shard_size: Annotated[int, Field(ge=1, le=MOST_SHARD_SAMPLES)] = USUAL_SHARD_SAMPLES

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.grid is not None and self.requests is not None:
            raise ValueError("a bulk job has a grid or a list of requests, not both")
        if self.requests is not None and self.n != 1:
            raise ValueError("'n' belongs to a grid; each request of a list has an 'n' of its own")
        return self


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be made; ``fields`` are those of generate, its seed among them."""

    index: int
    fields: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its name in the dataset: keys sort as samples do."""
        return f"{self.index:0{KEY_DIGITS}d}"


class BulkPlan(Sequence[Sample]):
    """The samples of a request, made up as they are looked at.

    Raises:
        ValueError: an ``n`` or a seed of a list is no number in its range.
    """

    def __init__(self, asked: BulkRequest) -> None:
        """Lay the combinations out."""
        self._asked = asked
        self.combinations: list[Mapping[str, Any]] = []
        """Each with the ``seed`` of its first sample."""
        self._ends: list[int] = []
        total = 0
        for fields, count in _combinations(asked):
            own = {"seed": asked.seed + (total if asked.requests is not None else 0), **fields}
            self.combinations.append({**asked.common, **own})
            total += count
            self._ends.append(total)

    def __len__(self) -> int:
        """How many samples there are."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        """One sample, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        fields = self.combinations[place]
        return Sample(index, {**fields, "seed": fields["seed"] + index - first})

    def shards(self, image_bytes: int) -> list[range]:
        """The samples of each shard.

        Args:
            image_bytes: of one image of the model, not compressed.
        """
        size = min(self._asked.shard_size, max(1, SHARD_PIXEL_BYTES // image_bytes))
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]


def samples_asked_for(asked: BulkRequest) -> int:
    """How many samples a request comes to, without laying them out.

    Raises:
        ValueError: an ``n`` of a list is no number above 0.
    """
    if asked.requests is not None:
        return sum(_count(fields) for fields in asked.requests)
    total = asked.n
    for values in (asked.grid or {}).values():
        total *= len(values)
    return total


def _combinations(asked: BulkRequest) -> list[tuple[dict[str, Any], int]]:
    if asked.requests is not None:
        return [({k: v for k, v in f.items() if k != "n"}, _count(f)) for f in asked.requests]
    grid = asked.grid or {}
    return [
        (dict(zip(grid, values, strict=True)), asked.n)
        for values in itertools.product(*grid.values())
    ]


def _count(fields: Mapping[str, Any]) -> int:
    count = fields.get("n", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError("'n' of a request must be a number above 0")
    return count
