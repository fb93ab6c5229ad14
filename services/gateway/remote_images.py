"""Images that a request names by URL: fetched in its place, where the operator allows it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any

from services.core.errors import TooLarge
from services.gateway.settings import GatewaySettings
from services.jobs.outgoing import Outgoing

NAMES = frozenset({"image", "images", "mask"})
_NOT_OURS = frozenset({"metadata", "webhook"})
_SCHEMES = ("http://", "https://")

Put = Callable[[str], None]


async def fetch_images(
    fields: dict[str, Any], outgoing: Outgoing, settings: GatewaySettings
) -> None:
    """Put the content of every image's URL in the place of the URL, as base64.

    Args:
        fields: of a body; changed.
        outgoing: by which addresses that are not global are refused.
        settings: how many images there may be, and how large.

    Raises:
        TooLarge: there are too many, or they are too large together; else as `Outgoing.get`.
    """
    found = list(_urls(fields))
    if len(found) > settings.max_input_images:
        raise TooLarge(f"{len(found)} images; the limit is {settings.max_input_images}")
    most = settings.max_image_bytes
    tasks = [
        asyncio.create_task(outgoing.get(url, max_bytes=most, param=name)) for name, url, _ in found
    ]
    try:
        contents = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    size = sum(len(content) for content in contents)
    if size > settings.max_body_bytes:
        raise TooLarge(f"the images have {size} bytes; the limit is {settings.max_body_bytes}")
    for (_, _, put), content in zip(found, contents, strict=True):
        put(base64.b64encode(content).decode())


def _urls(fields: dict[str, Any]) -> Iterator[tuple[str, str, Put]]:
    """Each image's field and URL, and what puts something in its place."""
    for name, value in fields.items():
        if name in NAMES:
            if _is_url(value):
                yield name, value, _putting(fields, name)
            elif isinstance(value, list):
                for index, one in enumerate(value):
                    if _is_url(one):
                        yield name, one, _putting(value, index)
        elif name not in _NOT_OURS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, dict):
                    yield from _urls(child)


def _putting(holder: Any, place: str | int) -> Put:
    def put(text: str) -> None:
        holder[place] = text

    return put


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value[:8].lower().startswith(_SCHEMES)
