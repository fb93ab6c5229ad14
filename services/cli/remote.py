"""A running server as the command line sees it: calls go out over HTTP, errors come back typed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import httpx

from services.core.errors import AtelierError, Unavailable, from_json
from services.core.job import Answer, Call, Item, Task, Timings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 660.0
"""A little more than the longest deadline that a server grants."""

_MAKES_IMAGES = (Task.GENERATE, Task.EDIT)


class RemoteBackend:
    """Runs calls on the server at a URL; see `services.core.backend.Backend.run`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Take the server's base URL, and a key if it wants one."""
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def run(self, call: Call) -> Answer:
        """Send a call and read its answer.

        Raises:
            Unavailable: nothing answers at that URL.
            AtelierError: what the server said was wrong.
        """
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(headers=self._headers, timeout=timeout) as client:
            try:
                response = await client.post(f"{self._url}/v1/{call.task}", json=body_of(call))
            except httpx.InvalidURL as error:
                raise Unavailable(f"'{self._url}' is no URL: {error}") from error
            except httpx.TransportError as error:
                raise Unavailable(
                    f"no answer from {self._url} ({error}); start a server with `atelier serve`, "
                    "or leave --url out to run in this process"
                ) from error
        if response.is_error:
            raise _error_of(response)
        return _answer_of(response.json())


def body_of(call: Call) -> dict[str, Any]:
    """A call as the JSON body of ``POST /v1/{task}``."""
    body: dict[str, Any] = {"model": call.model, **call.parameters}
    if call.operation is not None:
        body["operation"] = call.operation
    if call.images:
        body["images"] = [base64.b64encode(image).decode() for image in call.images]
    if call.mask is not None:
        body["mask"] = base64.b64encode(call.mask).decode()
    if call.deadline is not None:
        body["deadline"] = call.deadline
    if call.task in _MAKES_IMAGES:
        body |= {
            "response": "json",
            "output_format": call.encoding.format,
            "output_compression": call.encoding.compression,
        }
    return body


def _answer_of(body: Mapping[str, Any]) -> Answer:
    items = []
    for entry in body["data"]:
        values = dict(entry)
        image = values.pop("b64_json", None)
        items.append(Item(values, base64.b64decode(image) if image is not None else None))
    return Answer(body["model"], tuple(items), Timings(**body["timings"]))


def _error_of(response: httpx.Response) -> AtelierError:
    """The error in the server's envelope; a plain one where something else answered."""
    try:
        error = response.json()["error"]
        wait = response.headers.get("retry-after")
        return from_json({**error, "retry_after": float(wait) if wait else None})
    except (ValueError, KeyError, TypeError):
        return AtelierError(
            f"{response.url} answered {response.status_code} {response.reason_phrase}, and not as "
            "Atelier does; is this the right URL?"
        )
