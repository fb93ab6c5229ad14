"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from . import requests
from .answers import Encodings, Event, Images, Likelihoods, Model, Status
from .errors import ConnectionFailed, error_of, held, is_held
from .jobs import Jobs
from .requests import Ask, EditOptions, GenerateOptions, ImageSource, LikelihoodOptions
from .retries import Retries
from .streams import EventReader

A = TypeVar("A", bound=BaseModel)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 660.0
"""A little more than the longest deadline that a server grants."""


def options_of(
    url: str, api_key: str | None, timeout: float, transport: Any = None
) -> dict[str, Any]:
    """What both clients are made with.

    Raises:
        ConnectionFailed: that is no URL.
    """
    try:
        base = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConnectionFailed(f"'{url}' is no URL: {error}") from error
    return {
        "base_url": base,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        "transport": transport,
    }


class Client:
    """Asks a server and waits for its answers; may be shared between threads.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        api_key: where the server asks for one.
        timeout: seconds that an answer may take.
        retries: how often a request is sent again, and when.
        transport: in place of the network, as httpx takes it.

    Every method raises `ApiError` for what the server refuses, and `ConnectionFailed` where nobody
    answers.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = ANSWER_SECONDS,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._retries = retries or Retries()
        self._http = httpx.Client(**options_of(url, api_key, timeout, transport))
        self.jobs = Jobs(self)
        """Work that outlives its request."""

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def models(self) -> list[Model]:
        """Every model of the catalog."""
        data = self.send(Ask("GET", "/v1/models")).json()["data"]
        return [Model.model_validate(entry) for entry in data]

    def model(self, name: str) -> Model:
        """One model."""
        return self._answer(Model, Ask("GET", f"/v1/models/{quote(name, safe='')}"))

    def generate(self, model: str, **options: Unpack[GenerateOptions]) -> Images:
        """Make images from noise; the same seed gives the same image."""
        return self._answer(Images, requests.generate(model, options))

    def edit(self, model: str, operation: str, **options: Unpack[EditOptions]) -> Images:
        """Make images from images or latents; see the model's ``operations``."""
        return self._answer(Images, requests.edit(model, operation, options))

    def likelihood(
        self, model: str, images: Sequence[ImageSource], **options: Unpack[LikelihoodOptions]
    ) -> Likelihoods:
        """Say how probable images are."""
        return self._answer(Likelihoods, requests.examine("likelihood", model, images, options))

    def encode(
        self, model: str, images: Sequence[ImageSource], **options: Unpack[LikelihoodOptions]
    ) -> Encodings:
        """Find the latents of images."""
        return self._answer(Encodings, requests.examine("encode", model, images, options))

    @contextmanager
    def stream(self, model: str, **options: Unpack[GenerateOptions]) -> Iterator[Iterator[Event]]:
        """As `generate`, told event by event; leaving the block ends the work."""
        with self._streamed(requests.generate(model, options, stream=True)) as events:
            yield events

    @contextmanager
    def stream_edit(
        self, model: str, operation: str, **options: Unpack[EditOptions]
    ) -> Iterator[Iterator[Event]]:
        """As `edit`, told event by event; leaving the block ends the work."""
        with self._streamed(requests.edit(model, operation, options, stream=True)) as events:
            yield events

    def withdraw(self, request_id: str) -> None:
        """End a request that is in flight on another connection."""
        self.send(Ask("DELETE", f"/v1/requests/{quote(request_id, safe='')}"))

    def status(self) -> Status:
        """How every pool is doing."""
        return self._answer(Status, Ask("GET", "/v1/status"))

    def ready(self) -> bool:
        """Whether work would be taken now; false while nobody answers."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _answer(self, kind: type[A], ask: Ask) -> A:
        return kind.model_validate_json(self.send(ask).content)

    def send(self, ask: Ask, *, stream: bool = False) -> httpx.Response:
        """The response to a request, as often as it must be sent for one.

        Raises:
            ApiError: the server refuses it.
            ConnectionFailed: nobody answers.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                request = self._http.build_request(
                    ask.method, ask.path, json=ask.body, headers=ask.headers
                )
                response = self._http.send(request, stream=stream)
                if is_held(response):
                    response.close()
                    raise held(response)
                if not response.is_error:
                    return response
                response.read()
            except httpx.TransportError as error:
                pause = self._retries.pause(attempt, error)
                if pause is None:
                    raise ConnectionFailed(f"no answer from {self._url}: {error}") from error
            else:
                pause = self._retries.pause(attempt, response)
                if pause is None:
                    raise error_of(response)
            time.sleep(pause)

    @contextmanager
    def _streamed(self, ask: Ask) -> Iterator[Iterator[Event]]:
        response = self.send(ask, stream=True)
        try:
            yield self._events(response)
        finally:
            response.close()

    def _events(self, response: httpx.Response) -> Generator[Event, None, None]:
        reader = EventReader()
        try:
            for line in response.iter_lines():
                event = reader.take(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise ConnectionFailed(f"the stream from {self._url} broke off: {error}") from error
