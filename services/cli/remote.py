"""A running server as the command line sees it: calls go out over HTTP, errors come back typed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from pydantic import BaseModel

from services.client import (
    ApiError,
    AsyncClient,
    ConnectionFailed,
    Done,
    Encodings,
    Event,
    Image,
    ImageReady,
    Likelihoods,
    Progress,
    Queued,
)
from services.core.errors import AtelierError, Unavailable, from_json
from services.core.job import Answer, Call, Item, Task, Timings

_MAKES_IMAGES = (Task.GENERATE, Task.EDIT)
_NOT_ATELIER: Final = "not_atelier"

Told = Callable[[float], None]


def _nobody(share: float) -> None:
    """Takes note of nothing."""


class RemoteBackend:
    """Runs calls on the server at a URL; see `services.core.backend.Backend.run`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Take the server's base URL, and a key if it wants one."""
        self._url, self._api_key = url, api_key

    async def run(self, call: Call, told: Told = _nobody) -> Answer:
        """Send a call and read its answer.

        Args:
            call: what to do.
            told: how far images are, as a share in [0, 1].

        Raises:
            Unavailable: nothing answers at that URL.
            AtelierError: what the server said was wrong.
        """
        try:
            async with AsyncClient(self._url, api_key=self._api_key) as client:
                if call.task in _MAKES_IMAGES:
                    return await _followed(client, call, told)
                return _answer(await _sent(client, call))
        except ConnectionFailed as error:
            raise Unavailable(
                f"{error}; start a server with `atelier serve`, or leave --url out to run in this "
                "process"
            ) from error
        except ApiError as error:
            raise _typed(error) from error


def fields_of(call: Call) -> dict[str, Any]:
    """A call's parameters, deadline and format as fields of a body; images of controls as text."""
    fields: dict[str, Any] = dict(call.parameters)
    if call.deadline is not None:
        fields["deadline"] = call.deadline
    if call.task in _MAKES_IMAGES:
        fields["output_format"] = call.encoding.format
        fields["output_compression"] = call.encoding.compression
        if call.metadata is not None:
            fields["metadata"] = call.metadata
    if call.controls:
        fields["control"] = [
            {**use, "image": base64.b64encode(image).decode()}
            for use, image in zip(call.parameters["control"], call.controls, strict=True)
        ]
    return fields


async def _sent(client: AsyncClient, call: Call) -> Likelihoods | Encodings:
    fields = fields_of(call)
    if call.task is Task.LIKELIHOOD:
        return await client.likelihood(call.model, call.images, extra=fields)
    return await client.encode(call.model, call.images, extra=fields)


async def _followed(client: AsyncClient, call: Call, told: Told) -> Answer:
    """Make images by a stream: it tells how far they are, and leaving it ends the work."""
    images: dict[int, Item] = {}
    shares: dict[int, float] = {}
    rows, done = 1, None
    async with _opened(client, call) as events:
        async for event in events:
            if isinstance(event, Queued):
                rows = max(1, event.images)
            elif isinstance(event, Progress):
                shares[event.index] = event.step / max(1, event.steps)
            elif isinstance(event, ImageReady):
                images[event.index], shares[event.index] = _item(event.image), 1.0
            elif isinstance(event, Done):
                done = event
            told(min(1.0, sum(shares.values()) / rows))
    if done is None:
        raise Unavailable("the server ended its stream before all images were there; try again")
    items = tuple(images[index] for index in sorted(images))
    return Answer(done.model, items, Timings(**done.timings.model_dump()))


def _opened(client: AsyncClient, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
    fields = fields_of(call)
    if call.task is Task.GENERATE:
        return client.stream(call.model, extra=fields)
    files: dict[str, Any] = {"images": call.images} if call.images else {}
    if call.mask is not None:
        files["mask"] = call.mask
    return client.stream_edit(call.model, call.operation or "", extra=fields, **files)


def _answer(found: Likelihoods | Encodings) -> Answer:
    timings = Timings(**found.timings.model_dump())
    return Answer(found.model, tuple(_item(entry) for entry in found.entries), timings)


def _item(entry: BaseModel) -> Item:
    values = entry.model_dump(exclude={"data"} if isinstance(entry, Image) else None)
    set_ones = {name: value for name, value in values.items() if name in entry.model_fields_set}
    return Item(set_ones, entry.data if isinstance(entry, Image) else None)


def _typed(error: ApiError) -> AtelierError:
    """The server's error as the type that it was there."""
    if error.code == _NOT_ATELIER:
        return AtelierError(error.message)
    said = {"code": error.code, "message": error.message, "param": error.param}
    return from_json({**said, "retry_after": error.retry_after})
