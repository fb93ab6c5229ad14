"""The fields of a request that name a model's adapters."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_ADAPTERS = 4
MAX_CONTROLS = 4
MAX_SCALE = 4.0

Name = Annotated[str, Field(min_length=1, max_length=64, description="See the model's `adapters`.")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterUse(_Strict):
    """A LoRA of the model, and how strongly it is applied: 1 as it was trained, 0 not at all."""

    name: Name
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


class ControlUse(_Strict):
    """A ControlNet of the model, how strongly it is heard, and on which part of the way.

    The image travels beside the parameters, one for each control, in their order.
    """

    name: Name
    scale: Annotated[float, Field(ge=0, le=MAX_SCALE)] = 1.0
    start: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.start >= self.end:
            raise ValueError("the start must lie before the end")
        return self


class Adapted(BaseModel):
    """Base of everything that a model's adapters apply to."""

    adapters: (
        Annotated[
            list[AdapterUse],
            Field(
                min_length=1,
                max_length=MAX_ADAPTERS,
                description="LoRAs registered for the model (`atelier models add FILE --base "
                "MODEL`), applied together; GET /v1/models/{model} lists them.",
            ),
        ]
        | None
    ) = None
    control: (
        Annotated[
            list[ControlUse],
            Field(
                min_length=1,
                max_length=MAX_CONTROLS,
                description="ControlNets registered for the model, each with an image, heard "
                "together. Each costs about another branch where it is heard.",
            ),
        ]
        | None
    ) = None

    @field_validator("adapters")
    @classmethod
    def _each_once(cls, uses: list[AdapterUse] | None) -> list[AdapterUse] | None:
        names = [use.name for use in uses or ()]
        if len(set(names)) != len(names):
            raise ValueError("an adapter is named twice; add up its scales")
        return uses
