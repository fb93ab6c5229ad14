"""One exhibit of the demonstration, and the service that it is asked from."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from services.core.errors import from_json

ANSWER_SECONDS = 120.0
SEED = 7
SEEDS = tuple(f"seed {SEED + i}" for i in range(4))
"""Captions of four images that differ in their seed alone."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """Images that belong together: what was asked, what came, and how many seconds it took.

    ``name`` is what their files are called.
    """

    name: str
    title: str
    captions: tuple[str, ...]
    images: tuple[bytes, ...]
    seconds: float
    note: str = ""


class Service:
    """The HTTP interface, as any client would use it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, route: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a JSON body.

        Raises:
            AtelierError: what the service said was wrong.
        """
        answer = self._client.post(f"/v1/{route}", json=body, timeout=ANSWER_SECONDS)
        if answer.is_error:
            raise from_json(answer.json()["error"])
        values: dict[str, Any] = answer.json()
        return values

    def models(self) -> frozenset[str]:
        """The ids of all models that are served."""
        answer = self._client.get("/v1/models", timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return frozenset(model["id"] for model in answer.json()["data"])

    def describe(self, model: str) -> Mapping[str, Any]:
        """What a model says of itself."""
        answer = self._client.get(f"/v1/models/{model}", timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        values: dict[str, Any] = answer.json()
        return values

    def images(self, route: str, **body: Any) -> tuple[bytes, ...]:
        """The images of a generate or edit request."""
        return tuple(base64.b64decode(i["b64_json"]) for i in self.ask(route, body)["data"])


def exhibit(
    name: str,
    title: str,
    captions: Sequence[str],
    images: Sequence[bytes],
    started: float,
    note: str = "",
) -> Exhibit:
    """What has been asked for since a moment, put together."""
    seconds = time.perf_counter() - started
    return Exhibit(name, title, tuple(captions), tuple(images), seconds, note)
