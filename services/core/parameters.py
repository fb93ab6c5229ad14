"""What all families' request parameters have in common. No torch."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_SEED = 2**63 - 1
MAX_LATENT_VALUES = 1 << 20

Seed = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_SEED,
        description="Same seed, same image. The image of index i uses seed + i.",
    ),
]


class Latents(BaseModel):
    """A tensor on the wire: little-endian float32 values in base64, and their shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Field(max_length=MAX_LATENT_VALUES * 16 // 3)]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=6)]

    @field_validator("shape")
    @classmethod
    def _bounded(cls, shape: list[int]) -> list[int]:
        if math.prod(shape) > MAX_LATENT_VALUES:
            raise ValueError(f"at most {MAX_LATENT_VALUES} values, got {math.prod(shape)}")
        return shape

    def array(self) -> NDArray[np.float32]:
        """The values.

        Raises:
            ValueError: not base64, of another length than the shape says, or not finite.
        """
        try:
            raw = base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"latents are not base64: {error}") from error
        if len(raw) != 4 * math.prod(self.shape):
            needed = 4 * math.prod(self.shape)
            raise ValueError(f"latents hold {len(raw)} bytes; shape {self.shape} needs {needed}")
        values = np.frombuffer(raw, dtype="<f4").reshape(self.shape).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("latents must be finite numbers")
        return values

    @classmethod
    def from_array(cls, values: NDArray[np.float32]) -> Latents:
        """The wire form of an array."""
        data = base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes())
        return cls(data=data.decode(), shape=list(values.shape))


class Parameters(BaseModel):
    """Base of a family's parameters for one task or operation.

    Subclasses say how many images they need and how many rows of work they make.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    images_needed: ClassVar[tuple[int, int]] = (0, 0)
    """Fewest and most images that come with the request."""
    takes_mask: ClassVar[bool] = False
    """Whether a mask must come with the request."""
    row_per_image: ClassVar[bool] = False
    """Whether each image is a row of its own, instead of every row seeing all of them."""

    seed: Seed = 0

    @classmethod
    def described(cls) -> dict[str, Any]:
        """The JSON schema, with what comes beside the parameters.

        ``x-images`` is the fewest and the most images, ``x-mask`` whether there is a mask.
        """
        beside = {"x-images": list(cls.images_needed), "x-mask": cls.takes_mask}
        return {**cls.model_json_schema(), **beside}

    def rows(self, images: int) -> int:
        """How many rows of work these parameters make for that many images."""
        return images if self.row_per_image else 1


def with_defaults(schema: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema that shows a model's own defaults of properties that leave it to the model.

    Args:
        schema: of an operation's parameters.
        defaults: by property; one whose schema has a default other than null keeps that.
    """
    properties = {
        name: {**said, "default": defaults[name]}
        if defaults.get(name) is not None and "default" in said and said["default"] is None
        else said
        for name, said in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties}
