"""Requests as plain JSON: what the methods of both clients send."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .answers import Latents

if TYPE_CHECKING:
    from PIL import Image as PILImage

    ImageSource = bytes | str | Path | PILImage.Image
else:
    ImageSource = Any
"""An image: its bytes, the path of a file, or a PIL image."""

_SEEDS = 2**32


class _Common(TypedDict, total=False):
    prompt: str
    label: str | int
    factors: Mapping[str, str]
    seed: int
    steps: int
    deadline: float
    extra: Mapping[str, Any]


class LikelihoodOptions(_Common, total=False):
    """Parameters of likelihood and encode; those that are not named here go into ``extra``."""

    samples: int
    method: str
    probes: int


class GenerateOptions(_Common, total=False):
    """Parameters of generate; those that are not named here go into ``extra``."""

    n: int
    negative_prompt: str
    sampler: str
    guidance_scale: float
    truncation: float
    temperature: float
    temperatures: Sequence[float]
    top_k: int
    top_p: float
    latents: Latents | Mapping[str, Any] | Sequence[Latents | Mapping[str, Any]] | None
    latent_space: Literal["z", "w", "w+", "s"]
    noise_strength: float
    category: int
    continuous: Sequence[float]
    resolution: int
    alpha: float
    output_format: Literal["png", "jpeg", "webp"]
    output_compression: int
    preview_every: int
    metadata: bool


class EditOptions(GenerateOptions, total=False):
    """Parameters of edit; those that are not named here go into ``extra``."""

    images: Sequence[ImageSource]
    mask: ImageSource
    strength: float
    seeds: Sequence[int]
    latent_index: int
    attributes: Mapping[str, float]
    attribute: str
    channels: Mapping[str, float]
    layers: Sequence[int]
    layer: int
    code: str
    range: Sequence[float]
    values: Sequence[float]
    sample: bool
    levels: int
    source_prompt: str
    end_prompt: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the server."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


def generate(model: str, options: Mapping[str, Any], *, stream: bool = False) -> Ask:
    """``POST /v1/generate``."""
    return Ask("POST", "/v1/generate", _makes_images(model, options, stream=stream))


def edit(model: str, operation: str, options: Mapping[str, Any], *, stream: bool = False) -> Ask:
    """``POST /v1/edit``."""
    body = _makes_images(model, options, stream=stream)
    return Ask("POST", "/v1/edit", {**body, "operation": operation})


def examine(
    task: str, model: str, images: Sequence[ImageSource], options: Mapping[str, Any]
) -> Ask:
    """``POST /v1/likelihood`` or ``/v1/encode``."""
    return Ask("POST", f"/v1/{task}", {**_body(model, options), "images": _encoded(images)})


def body_of(task: str, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a task, as a job carries it; what makes images names its seed."""
    body = _body(model, options)
    if task in ("generate", "edit"):
        body.setdefault("seed", random.randrange(_SEEDS))  # noqa: S311 - guards nothing
    return body


def _makes_images(model: str, options: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """A body that names its seed: a second attempt then makes the same images."""
    body = _body(model, options)
    # Two seeds are the ends of an interpolation, which draws nothing else.
    body.setdefault("seed", random.randrange(_SEEDS))  # noqa: S311 - guards nothing
    return {**body, "response": "stream" if stream else "json"}


def _body(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model}
    for name, value in options.items():
        if value is None or name == "extra":
            continue
        if name == "images":
            body[name] = _encoded(value)
        elif name == "mask":
            body[name] = _encoded([value])[0]
        else:
            body[name] = _plain(value)
    return body | dict(options.get("extra") or {})


def _plain(value: Any) -> Any:
    if isinstance(value, Latents):
        return {"data": value.data, "shape": value.shape}
    if isinstance(value, tuple | list):
        return [_plain(child) for child in value]
    return value


def _encoded(images: Sequence[ImageSource]) -> list[str]:
    return [base64.b64encode(_bytes_of(image)).decode() for image in images]


def _bytes_of(image: Any) -> bytes:
    """The file of an image.

    Raises:
        TypeError: it is none of the kinds that an image may be.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if hasattr(image, "save"):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()
    raise TypeError(f"an image is bytes, a path or a PIL image, got {type(image).__name__}")
