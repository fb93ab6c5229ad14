"""A running server as the command line sees it: calls go out over HTTP, errors come back typed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from services.client import (
    ApiError,
    AsyncClient,
    ConnectionFailed,
    Encodings,
    Image,
    Images,
    Likelihoods,
)
from services.core.errors import AtelierError, Unavailable, from_json
from services.core.job import Answer, Call, Item, Task, Timings

_MAKES_IMAGES = (Task.GENERATE, Task.EDIT)
_NOT_ATELIER: Final = "not_atelier"


class RemoteBackend:
    """Runs calls on the server at a URL; see `services.core.backend.Backend.run`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Take the server's base URL, and a key if it wants one."""
        self._url, self._api_key = url, api_key

    async def run(self, call: Call) -> Answer:
        """Send a call and read its answer.

        Raises:
            Unavailable: nothing answers at that URL.
            AtelierError: what the server said was wrong.
        """
        try:
            async with AsyncClient(self._url, api_key=self._api_key) as client:
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
    if call.controls:
        fields["control"] = [
            {**use, "image": base64.b64encode(image).decode()}
            for use, image in zip(call.parameters["control"], call.controls, strict=True)
        ]
    return fields


async def _sent(client: AsyncClient, call: Call) -> Images | Likelihoods | Encodings:
    fields = fields_of(call)
    match call.task:
        case Task.GENERATE:
            return await client.generate(call.model, extra=fields)
        case Task.LIKELIHOOD:
            return await client.likelihood(call.model, call.images, extra=fields)
        case Task.ENCODE:
            return await client.encode(call.model, call.images, extra=fields)
    files: dict[str, Any] = {"images": call.images} if call.images else {}
    if call.mask is not None:
        files["mask"] = call.mask
    return await client.edit(call.model, call.operation or "", extra=fields, **files)


def _answer(found: Images | Likelihoods | Encodings) -> Answer:
    entries: Sequence[BaseModel] = found.images if isinstance(found, Images) else found.entries
    timings = Timings(**found.timings.model_dump())
    return Answer(found.model, tuple(_item(entry) for entry in entries), timings)


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
