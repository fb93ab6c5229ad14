"""What an evaluation found: numbers with their names, as one JSON document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from model_store.manifest import Manifest

SCHEMA_VERSION: Literal[1] = 1
DIGITS = 6
"""Significant digits of a number: what is beyond them differs among processors."""

Better = Literal["higher", "lower"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measurement(_Strict):
    """One number."""

    name: str
    value: FiniteFloat
    deviation: FiniteFloat | None = Field(
        default=None, description="Its standard deviation or standard error, where it has one."
    )
    better: Better | None = Field(
        default=None, description="Which way is better; null where neither is."
    )
    images: Annotated[int, Field(ge=1)] = Field(description="Images that it was measured on.")


class Unmeasured(_Strict):
    """What could have been expected, and why it is not there."""

    name: str
    reason: str


class Data(_Strict):
    """The images that a model was compared with."""

    name: str
    split: str
    images: Annotated[int, Field(ge=1)]


class Network(_Strict):
    """The network whose features were compared; a user's is named by its file and hash."""

    name: str
    file: str | None = None
    sha256: str | None = None


class Evaluation(_Strict):
    """Everything that ``atelier evaluate`` found of one model.

    ``weights`` are digests of files (`weights_of`): other weights, other numbers.
    ``samples`` is the most images that any number was measured on. The document holds no date and
    no duration, so that the same weights, data and seed give the same document.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    family: str
    weights: dict[str, str]
    data: Data
    features: Network | None
    seed: int
    samples: Annotated[int, Field(ge=1)]
    measurements: list[Measurement]
    corrected_reference: list[FiniteFloat] | None = Field(
        default=None,
        description="Ascending quantiles of the held-out images' corrected bits per dimension, "
        "evenly spaced: what corrected percentiles are read off.",
    )
    unmeasured: list[Unmeasured] = []


def weights_of(manifest: Manifest) -> dict[str, str]:
    """SHA-256 by name of the files that hold a model's weights.

    Of a network with two exports the safetensors alone, as the graph is made of them.
    """
    exports = [n.safetensors or n.onnx for n in manifest.networks.values()]
    parts = manifest.pipeline.components.values() if manifest.pipeline else ()
    files = [*filter(None, exports), *(file for part in parts for file in part.files.values())]
    return {file.file: file.sha256 or "" for file in files}


def measurement(
    name: str,
    value: float,
    *,
    images: int,
    better: Better | None = None,
    deviation: float | None = None,
) -> Measurement:
    """A measurement with its numbers rounded to `DIGITS` significant digits."""
    return Measurement(
        name=name,
        value=_rounded(value),
        deviation=None if deviation is None else _rounded(deviation),
        better=better,
        images=images,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
