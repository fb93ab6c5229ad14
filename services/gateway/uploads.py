"""Images as they arrive: files, base64 or data URLs; checked by their headers, never fetched."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from services.core.errors import InvalidImage, InvalidParameter, TooLarge
from services.core.images import ImageLimits, read_header

_DATA_URL = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
_REMOTE = re.compile(r"\s*[a-z][a-z0-9+.-]{0,20}://", re.IGNORECASE)


def image_bytes(source: bytes | str, limits: ImageLimits, *, param: str) -> bytes:
    """The encoded image behind an upload, a base64 text or a data URL.

    Raises:
        InvalidParameter: it is a URL; those are not fetched.
        TooLarge, UnsupportedMedia, InvalidImage: see `services.core.images.read_header`.
    """
    data = source if isinstance(source, bytes) else _decode(source, limits, param)
    if not data:
        raise InvalidImage("the image is empty", param=param)
    read_header(data, limits, param=param)
    return data


def all_image_bytes(
    sources: Sequence[bytes | str], limits: ImageLimits, *, most: int
) -> tuple[bytes, ...]:
    """Every image of a request, in order.

    Raises:
        TooLarge: there are more than ``most``; else as `image_bytes`.
    """
    if len(sources) > most:
        raise TooLarge(f"{len(sources)} images; the limit is {most}", param="images")
    return tuple(image_bytes(source, limits, param="image") for source in sources)


def _decode(text: str, limits: ImageLimits, param: str) -> bytes:
    if _REMOTE.match(text):
        raise InvalidParameter(
            "URLs are not fetched here; send the image's bytes as base64, as a data: URL or as a "
            "file",
            param=param,
        )
    head = _DATA_URL.match(text)
    start = head.end() if head else 0
    size = (len(text) - start) * 3 // 4
    if size > limits.max_bytes + 2:
        raise TooLarge(f"the image has {size} bytes; the limit is {limits.max_bytes}", param=param)
    try:
        return base64.b64decode(text[start:], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(
            f"the image is neither base64 nor a data: URL with base64: {error}", param=param
        ) from error
