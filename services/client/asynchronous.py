"""The client that is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from . import requests
from .answers import Encodings, Event, Images, Likelihoods, Model, Status
from .asynchronous_jobs import AsyncJobs
from .errors import ConnectionFailed, error_of, held, is_held
from .requests import Ask, EditOptions, GenerateOptions, ImageSource, LikelihoodOptions
from .retries import Retries
from .streams import EventReader
from .synchronous import ANSWER_SECONDS, options_of

A = TypeVar("A", bound=BaseModel)


class AsyncClient:
    """Asks a server and awaits its answers; for one event loop.

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._retries = retries or Retries()
        self._http = httpx.AsyncClient(**options_of(url, api_key, timeout, transport))
        self.jobs = AsyncJobs(self)
        """Work that outlives its request."""

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """Every model of the catalog."""
        data = (await self.send(Ask("GET", "/v1/models"))).json()["data"]
        return [Model.model_validate(entry) for entry in data]

    async def model(self, name: str) -> Model:
        """One model."""
        return await self._answer(Model, Ask("GET", f"/v1/models/{quote(name, safe='')}"))

    async def generate(self, model: str, **options: Unpack[GenerateOptions]) -> Images:
        """Make images from noise; the same seed gives the same image."""
        return await self._answer(Images, requests.generate(model, options))

    async def edit(self, model: str, operation: str, **options: Unpack[EditOptions]) -> Images:
        """Make images from images or latents; see the model's ``operations``."""
        return await self._answer(Images, requests.edit(model, operation, options))

    async def likelihood(
        self, model: str, images: Sequence[ImageSource], **options: Unpack[LikelihoodOptions]
    ) -> Likelihoods:
        """Say how probable images are."""
        return await self._answer(
            Likelihoods, requests.examine("likelihood", model, images, options)
        )

    async def encode(
        self, model: str, images: Sequence[ImageSource], **options: Unpack[LikelihoodOptions]
    ) -> Encodings:
        """Find the latents of images."""
        return await self._answer(Encodings, requests.examine("encode", model, images, options))

    @asynccontextmanager
    async def stream(
        self, model: str, **options: Unpack[GenerateOptions]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """As `generate`, told event by event; leaving the block ends the work."""
        async with self._streamed(requests.generate(model, options, stream=True)) as events:
            yield events

    @asynccontextmanager
    async def stream_edit(
        self, model: str, operation: str, **options: Unpack[EditOptions]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """As `edit`, told event by event; leaving the block ends the work."""
        async with self._streamed(requests.edit(model, operation, options, stream=True)) as events:
            yield events

    async def withdraw(self, request_id: str) -> None:
        """End a request that is in flight on another connection."""
        await self.send(Ask("DELETE", f"/v1/requests/{quote(request_id, safe='')}"))

    async def status(self) -> Status:
        """How every pool is doing."""
        return await self._answer(Status, Ask("GET", "/v1/status"))

    async def ready(self) -> bool:
        """Whether work would be taken now; false while nobody answers."""
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    async def _answer(self, kind: type[A], ask: Ask) -> A:
        return kind.model_validate_json((await self.send(ask)).content)

    async def send(self, ask: Ask, *, stream: bool = False) -> httpx.Response:
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
                response = await self._http.send(request, stream=stream)
                if is_held(response):
                    await response.aclose()
                    raise held(response)
                if not response.is_error:
                    return response
                await response.aread()
            except httpx.TransportError as error:
                pause = self._retries.pause(attempt, error)
                if pause is None:
                    raise ConnectionFailed(f"no answer from {self._url}: {error}") from error
            else:
                pause = self._retries.pause(attempt, response)
                if pause is None:
                    raise error_of(response)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _streamed(self, ask: Ask) -> AsyncIterator[AsyncIterator[Event]]:
        response = await self.send(ask, stream=True)
        try:
            yield self._events(response)
        finally:
            await response.aclose()

    async def _events(self, response: httpx.Response) -> AsyncGenerator[Event, None]:
        reader = EventReader()
        try:
            async for line in response.aiter_lines():
                event = reader.take(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise ConnectionFailed(f"the stream from {self._url} broke off: {error}") from error
