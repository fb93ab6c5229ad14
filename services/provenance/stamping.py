"""The one place that every image passes on its way out, and where it is told its origin."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image

from services.core.backend import Backend, BackendOver
from services.core.errors import ProvenanceFailure
from services.core.images import encode
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Encoding,
    Event,
    Item,
    Preview,
    Queued,
    RowFinished,
    Task,
    Watch,
)
from services.core.model import ModelInfo
from services.provenance.containers import with_metadata
from services.provenance.credentials import UNTRUSTED, Credentials, load_credentials
from services.provenance.labels import labels_for
from services.provenance.record import Record, models_of, record_of
from services.provenance.settings import ProvenanceSettings
from services.provenance.signing import ManifestSigner
from services.provenance.watermark import Watermark, watermark_named

T = TypeVar("T")

UNSIGNED: Final = (
    "the image was made, but its origin could not be signed, and images do not leave unsigned; try "
    "again, and tell the operator if it fails again"
)

_MAKES_IMAGES: Final = (Task.GENERATE, Task.EDIT)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProvenanceStatus:
    """What ``/v1/status`` says of provenance.

    Attributes:
        enabled: whether images carry manifests.
        certificate: whose the signing certificate is; ``None`` where nothing is signed.
        expires: the end of its validity, ISO 8601.
        watermark: the name of the watermark in the pixels.
        note: what an operator should know.
    """

    enabled: bool
    certificate: str | None = None
    expires: str | None = None
    watermark: str | None = None
    note: str | None = None


OFF: Final = ProvenanceStatus(enabled=False)


def status_of(credentials: Credentials, settings: ProvenanceSettings) -> ProvenanceStatus:
    """What is to be said of credentials in use."""
    return ProvenanceStatus(
        enabled=True,
        certificate="development" if credentials.development else "configured",
        expires=credentials.expires.isoformat(),
        watermark=settings.watermark,
        note=UNTRUSTED if credentials.development else None,
    )


class Stamp:
    """Marks, labels and signs images, on threads of its own."""

    def __init__(self, settings: ProvenanceSettings, folder: Path) -> None:
        """Open what is needed, so that nothing of it can fail later.

        Args:
            settings: what images say of where they come from.
            folder: where credentials for development are kept.

        Raises:
            InvalidParameter: the credentials or the watermark cannot be used.
        """
        self.settings = settings
        credentials = load_credentials(settings, folder)
        self.status = status_of(credentials, settings)
        self._signer = ManifestSigner(
            credentials,
            max_manifest_bytes=settings.max_manifest_bytes,
            prompts=settings.prompt_in_manifest,
        )
        self._watermark: Watermark | None = None
        if settings.watermark is not None:
            self._watermark = watermark_named(settings.watermark)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="atelier-stamp")
        if credentials.development:
            _LOG.warning("images are signed with a %s", UNTRUSTED)

    @property
    def marks(self) -> bool:
        """Whether pixels get a watermark, which needs them as they were made."""
        return self._watermark is not None

    async def off_the_loop(self, work: Callable[[], T]) -> T:
        """Do work on a thread of the stamp's own; at most ``settings.threads`` run at once."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def stamped(self, data: bytes, call: Call, record: Record) -> bytes:
        """An image as it leaves. Blocks; see `off_the_loop`.

        Args:
            data: the image as the backend gave it: without loss where `marks`.
            call: what was asked.
            record: what is known of the image.

        Raises:
            ProvenanceFailure: it could not be signed, and is not to be sent unsigned.
        """
        if self._watermark is not None:
            payload = self.settings.watermark_payload.encode()
            data = encode(self._watermark.embed(pixels_of(data), payload), call.encoding)
        if not call.provenance:
            return data
        kept = self.settings.metadata if call.metadata is None else call.metadata
        image_format, labels = call.encoding.format, labels_for(record, parameters=kept)
        try:
            data = with_metadata(data, image_format, labels)
            return self._signer.signed(data, image_format, record, watermarked=self.marks)
        except (ValueError, ProvenanceFailure) as error:
            _LOG.error("request %s: an image could not be signed: %s", call.id, error)
            if self.settings.on_failure == "send_unsigned":
                return data
            raise ProvenanceFailure(UNSIGNED) from error


def open_stamp(settings: ProvenanceSettings, folder: Path) -> Stamp | None:
    """The stamp that settings ask for, if they ask for one; see `Stamp`."""
    return Stamp(settings, folder) if settings.enabled else None


def pixels_of(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Uint8 ``[channels, height, width]`` of an image that the service itself has encoded."""
    array = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


class Stamped(BackendOver):
    """Implements `services.core.backend.Backend` over another: what leaves it bears its origin.

    Previews do not: they are no results, and each is gone when the next one comes. Neither do the
    values of calls whose images become tensors, but the watermark stays in these.
    """

    def __init__(self, backend: Backend, stamp: Stamp) -> None:
        """Take the backend that makes the images."""
        super().__init__(backend)
        self._stamp = stamp
        self._digests: dict[str, str] = {}

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`; what stamping takes is counted as encoding.

        Raises:
            ProvenanceFailure: an image could not be signed.
        """
        answer = await self._backend.run(self._inner(call))
        if not self._concerns(call):
            return answer
        started, rows = time.monotonic(), len(answer.items)
        models = await self._models(call, answer.versions)
        items = await asyncio.gather(
            *(self._item(call, row, item, models, rows) for row, item in enumerate(answer.items))
        )
        encoding = answer.timings.encode + time.monotonic() - started
        return replace(answer, items=tuple(items), timings=replace(answer.timings, encode=encoding))

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`.

        Raises:
            ProvenanceFailure: an image could not be signed.
        """
        rows: int | None = None
        versions: Mapping[str, str] = {}
        seconds = 0.0
        async with aclosing(self._backend.stream(self._inner(call), watch)) as events:
            async for event in events:
                if isinstance(event, Queued):
                    rows, versions = event.rows, event.versions
                elif isinstance(event, RowFinished) and self._concerns(call):
                    started = time.monotonic()
                    models = await self._models(call, versions)
                    item = await self._item(call, event.row, event.item, models, rows)
                    seconds += time.monotonic() - started
                    yield RowFinished(event.row, item)
                    continue
                elif isinstance(event, Preview) and self._stamp.marks:
                    yield await self._preview(event, call.encoding)
                    continue
                elif isinstance(event, CallFinished):
                    encoding = event.timings.encode + seconds
                    yield replace(event, timings=replace(event.timings, encode=encoding))
                    continue
                yield event

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`. Whoever calls a model looks it up first, so its digest is known."""
        found = await super().model(name)
        self._digests[name] = found.digest
        return found

    def _concerns(self, call: Call) -> bool:
        return call.task in _MAKES_IMAGES and (call.provenance or self._stamp.marks)

    def _inner(self, call: Call) -> Call:
        """The call for the backend: a watermark goes into pixels before they lose anything."""
        if self._stamp.marks and self._concerns(call):
            return replace(call, encoding=Encoding("png"))
        return call

    async def _models(self, call: Call, versions: Mapping[str, str]) -> Mapping[str, str]:
        """The digest of every model that took part: as the backend says, else as looked up."""
        found = {}
        for name in models_of(call):
            if name in versions:
                found[name] = versions[name]
                continue
            if name not in self._digests:
                await self.model(name)
            found[name] = self._digests[name]
        return found

    async def _item(
        self, call: Call, row: int, item: Item, models: Mapping[str, str], rows: int | None
    ) -> Item:
        if item.image is None:
            return item
        data, record = item.image, record_of(call, row, item, models, rows=rows)
        image = await self._stamp.off_the_loop(lambda: self._stamp.stamped(data, call, record))
        return Item(item.values, image)

    async def _preview(self, preview: Preview, encoding: Encoding) -> Preview:
        """A preview in the format that was asked for, where its call was made in another."""
        if encoding.format == "png":
            return preview
        again = await self._stamp.off_the_loop(lambda: encode(pixels_of(preview.image), encoding))
        return replace(preview, image=again)
