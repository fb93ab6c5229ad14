"""Multipart bodies: the same fields as in JSON, with images as files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from services.core.errors import BadRequest, InvalidParameter, TooLarge
from services.gateway.settings import GatewaySettings
from services.gateway.strict_json import check_text, parse_json

IMAGE_NAMES = frozenset({"image", "image[]", "images", "images[]"})
JSON_NAMES = frozenset(
    {
        "latents",
        "factors",
        "codes",
        "continuous",
        "range",
        "values",
        "seeds",
        "fractions",
        "prompts",
        "guidance_interval",
        "adapters",
        "control",
        "attributes",
        "layers",
        "channels",
    }
)
"""Fields that are no scalars; in a form they are written as JSON."""

_OVER_LIMIT = ("Too many", "Part exceeded")


@dataclass(slots=True)
class Form:
    """A form's scalar fields as text, and its images in the order they were sent."""

    fields: dict[str, Any] = field(default_factory=dict)
    images: list[bytes | str] = field(default_factory=list)
    mask: bytes | str | None = None


async def read_form(request: Request, settings: GatewaySettings) -> Form:
    """Parse a multipart body within the limits on files, fields and their sizes.

    Raises:
        BadRequest: it is no multipart.
        TooLarge: it has too many parts, or a field is too long.
        InvalidParameter: a field is given twice or holds text that cannot be used.
    """
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=settings.max_parts,
        max_fields=settings.max_fields,
        max_part_size=settings.max_field_bytes,
    )
    try:
        data = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith(_OVER_LIMIT):
            raise TooLarge(error.message) from error
        raise BadRequest(f"the body is not multipart/form-data: {error.message}") from error
    try:
        return await _collect(data, settings)
    finally:
        await data.close()


async def _collect(data: FormData, settings: GatewaySettings) -> Form:
    form = Form()
    for name, value in data.multi_items():
        check_text(name, None)
        content = await value.read() if isinstance(value, UploadFile) else value
        if isinstance(content, str):
            check_text(content, name)
        if name in IMAGE_NAMES:
            form.images.append(content)
        elif name == "mask":
            _once(name, () if form.mask is None else (name,))
            form.mask = content
        else:
            _once(name, form.fields)
            form.fields[name] = _scalar(name, content, settings)
    return form


def _once(name: str, taken: Iterable[str]) -> None:
    if name in taken:
        raise InvalidParameter(f"the field {name[:60]!a} is given twice", param=name[:60])


def _scalar(name: str, content: bytes | str, settings: GatewaySettings) -> Any:
    if isinstance(content, bytes):
        raise InvalidParameter(
            f"the field {name[:60]!a} is a file; files are taken as image, image[] and mask",
            param=name[:60],
        )
    if name not in JSON_NAMES:
        return content
    try:
        return parse_json(
            content, max_depth=settings.max_json_depth, max_values=settings.max_json_values
        )
    except BadRequest as error:
        raise InvalidParameter(f"'{name}' must be JSON: {error.message}", param=name) from error
