"""From server-sent events (WHATWG HTML, section 9.2) to typed ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from .answers import Done, Event, ImageReady, Preview, Progress, Queued
from .errors import ConnectionFailed, error_in_stream

_PLAIN: dict[str, type[Queued | Progress | Done]] = {
    "queued": Queued,
    "progress": Progress,
    "done": Done,
}
_OF_THE_IMAGE = ("b64_json", "seed")


@dataclass(slots=True)
class EventReader:
    """Takes the lines of a stream and gives its events."""

    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def take(self, line: str) -> Event | None:
        """The event that a line completes; comments and events of newer servers complete none.

        Raises:
            ApiError: the stream ends in an error.
            ConnectionFailed: it holds what Atelier does not send.
        """
        if line:
            name, _, value = line.partition(":")
            if name == "event":
                self._name = value.removeprefix(" ")
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not data:
            return None
        try:
            return _event(name, json.loads(data))
        except (ValueError, ValidationError) as error:
            raise ConnectionFailed(f"the stream holds an event '{name}' of another form") from error


def _event(name: str, data: dict[str, Any]) -> Event | None:
    if name == "error":
        raise error_in_stream(data["error"])
    if name in _PLAIN:
        return _PLAIN[name].model_validate(data)
    if name == "preview":
        image = {key: data.pop(key) for key in _OF_THE_IMAGE if key in data}
        return Preview.model_validate({**data, "image": image})
    if name == "image":
        return ImageReady.model_validate({"index": data.pop("index"), "image": data})
    return None
