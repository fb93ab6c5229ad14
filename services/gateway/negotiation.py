"""Whether an answer leaves as an image, as JSON or as a stream, and in which format."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.core.errors import InvalidParameter
from services.core.images import MEDIA_TYPES
from services.core.job import Encoding, ImageFormat
from services.core.model import ModelInfo
from services.gateway.schemas import ImageRequest

EVENT_STREAM = "text/event-stream"

_QUALITY = re.compile(r";\s*q=([01](?:\.[0-9]{0,3})?)\s*(?:;|$)")
_MAX_ACCEPTED = 20
_FORMATS: dict[str, ImageFormat | None] = {
    MEDIA_TYPES["png"]: "png",
    MEDIA_TYPES["jpeg"]: "jpeg",
    MEDIA_TYPES["webp"]: "webp",
    "image/*": None,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer: raw bytes, a stream of events, or JSON; and how images are encoded."""

    raw: bool
    encoding: Encoding
    stream: bool = False


def accepted(header: str) -> list[str]:
    """The media types of an Accept header, best first; those with quality 0 are left out."""
    ranked: list[tuple[float, str]] = []
    for part in header.split(",")[:_MAX_ACCEPTED]:
        quality = _QUALITY.search(part)
        weight = float(quality.group(1)) if quality else 1.0
        if weight > 0:
            ranked.append((weight, part.split(";")[0].strip().lower()))
    return [name for _, name in sorted(ranked, key=lambda pair: -pair[0])]


def expected_images(asked: ImageRequest, operation: str, model: ModelInfo) -> int:
    """How many images an operation will make: ``n``, or what the model's schema says it is."""
    if asked.n is not None:
        return asked.n
    fields = model.operations.get(operation, {}).get("properties", {})
    default = fields.get("n", {}).get("default", 1)
    return default if isinstance(default, int) else 1


def negotiate(accept: str, asked: ImageRequest, images: int) -> Reply:
    """Choose the form of the answer; ``response`` and ``output_format`` win over the header.

    Args:
        accept: the request's Accept header.
        asked: the request.
        images: how many there will be.

    Raises:
        InvalidParameter: several images were asked for as raw bytes, or previews without a stream.
    """
    names = accepted(accept)
    stream = asked.response == "stream" or (asked.response is None and names[:1] == [EVENT_STREAM])
    if asked.preview_every is not None and not stream:
        raise InvalidParameter(
            "previews come in a stream only: ask for response 'stream'", param="preview_every"
        )
    wishes = [name for name in names if name in _FORMATS or _is_json(name)]
    wanted = next((_FORMATS[name] for name in wishes if name in _FORMATS), None)
    encoding = Encoding(
        format=asked.output_format or wanted or "png",
        compression=100 if asked.output_compression is None else asked.output_compression,
    )
    if stream:
        return Reply(raw=False, encoding=encoding, stream=True)
    several = images > 1
    if asked.response is not None:
        raw = asked.response == "image"
    elif several and any(_is_json(name) for name in wishes):
        raw = False
    else:
        raw = bool(wishes) and wishes[0] in _FORMATS
    if raw and several:
        raise InvalidParameter(
            f"{images} images cannot be sent as raw bytes; accept application/json, or ask for "
            "one image",
            param="n",
        )
    return Reply(raw=raw, encoding=encoding)


def _is_json(name: str) -> bool:
    return name in ("application/json", "application/*", "*/*")
