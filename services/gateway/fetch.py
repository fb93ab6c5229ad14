"""The one way in which the gateway fetches what an operator named: bounded in bytes and time."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from services.core.errors import InvalidParameter, Unavailable

FETCH_SECONDS = 5.0


def is_url(place: str) -> bool:
    """Whether a place is fetched over HTTP; else it is the path of a file."""
    return place.lower().startswith(("http://", "https://"))


def check_url(url: str) -> None:
    """Refuse URLs that anybody on the way could answer.

    Raises:
        InvalidParameter: it is not https, and not on this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(parts.hostname)):
        return
    raise InvalidParameter(f"'{url[:120]}' must be https, or http on this machine")


def _is_this_machine(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


async def fetch(place: str, *, max_bytes: int, seconds: float = FETCH_SECONDS) -> bytes:
    """The content of a file or of a URL; redirects are not followed.

    Args:
        place: a path, or a URL that `check_url` allows.
        max_bytes: the most that is read.
        seconds: for all of it.

    Raises:
        Unavailable: it cannot be had, or is larger.
        InvalidParameter: see `check_url`.
    """
    if is_url(place):
        check_url(place)
    try:
        async with asyncio.timeout(seconds):
            content = await _read(place, max_bytes)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"{place} cannot be read: {why}") from error
    if len(content) > max_bytes:
        raise Unavailable(f"{place} is larger than {max_bytes} bytes")
    return content


async def _read(place: str, max_bytes: int) -> bytes:
    if not is_url(place):
        return await asyncio.to_thread(_head, Path(place), max_bytes + 1)
    content = b""
    async with (
        httpx.AsyncClient(follow_redirects=False) as client,
        client.stream("GET", place) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise httpx.HTTPError(f"it answered {response.status_code}")
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > max_bytes:
                break
    return content


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
