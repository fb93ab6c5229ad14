"""Decoding in a process of little memory and time: what breaks a decoder breaks that and no more.

The libraries that decode JPEG, PNG and WebP are C, and strangers choose what they read. A file that
makes them crash, spin or take all memory ends a small process, which another replaces, and its
request is refused; nobody else's is touched. What comes back is believed as little as what went in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from queue import Empty, LifoQueue
from threading import Lock
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.core.decoder import Decoder
from services.core.decoder_process import Broken, DecoderProcess
from services.core.errors import AtelierError, InvalidImage, Unavailable
from services.core.images import ImageLimits, Pixels, check_size

BYTES_PER_PIXEL = 32
"""Memory that decoding takes at its most: an image, its colours apart, on white, and resized."""
SPARE_BYTES = 64 << 20


class DecodingSettings(BaseModel):
    """How uploaded images are decoded.

    Attributes:
        processes: how many decode at once, for each replica; 0 decodes in the replica itself.
        cpu_seconds: of work for one image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: Annotated[int, Field(ge=0, le=64)] = 2
    cpu_seconds: Annotated[int, Field(ge=1, le=600)] = 10


def decoder_of(settings: DecodingSettings, limits: ImageLimits) -> Decoder:
    """The decoder that the settings ask for."""
    return IsolatedDecoder(limits, settings) if settings.processes else Decoder(limits)


class IsolatedDecoder(Decoder):
    """A few processes that live on from image to image. They begin as they are needed."""

    waits = True

    def __init__(self, limits: ImageLimits, settings: DecodingSettings) -> None:
        """Nothing is started yet.

        Args:
            limits: what an uploaded image may be.
            settings: how many processes, and how long for one image.
        """
        super().__init__(limits)
        self._settings = settings
        self._guard, self._closed = Lock(), False
        self._places: LifoQueue[DecoderProcess | None] = LifoQueue()
        for _ in range(settings.processes):
            self._places.put(None)

    def image(
        self,
        data: bytes,
        resolution: tuple[int, int] | None,
        channels: int,
        *,
        param: str = "image",
    ) -> Pixels:
        """See `services.core.images.decode`.

        Raises:
            InvalidImage: the file crashes the decoder, or keeps it busy for too long.
            AtelierError: as `services.core.images.decode`.
        """
        task = {"resolution": resolution, "channels": channels, "param": param}
        return self._decoded(data, task, channels, resolution)

    def mask(self, data: bytes, resolution: tuple[int, int], *, param: str = "mask") -> Pixels:
        """See `services.core.images.decode_mask`; raises what `image` does, too."""
        task = {"resolution": resolution, "channels": None, "param": param}
        return self._decoded(data, task, 1, resolution)

    def close(self) -> None:
        """End the processes; those that are at work as soon as they have done it."""
        with self._guard:
            self._closed = True
            idle = []
            with contextlib.suppress(Empty):
                while True:
                    idle.append(self._places.get_nowait())
            for child in idle:
                if child is not None:
                    child.end()
                self._places.put(None)  # whoever comes now is told that it is over

    def _decoded(
        self,
        data: bytes,
        task: Mapping[str, Any],
        channels: int,
        resolution: tuple[int, int] | None,
    ) -> Pixels:
        check_size(data, self.limits, param=str(task["param"]))
        about = {**task, "size": len(data)}
        try:
            return self._attempt(about, data, channels, resolution)
        except Broken as broken:
            if not broken.slow:
                # It may have died of what is not its image's fault, but hardly so twice.
                with contextlib.suppress(Broken):
                    return self._attempt(about, data, channels, resolution)
            why = "takes too long to decode" if broken.slow else "makes the decoder fail"
            message = f"the image {why}; save it anew with another program"
            raise InvalidImage(message, param=str(task["param"])) from broken

    def _attempt(
        self,
        about: Mapping[str, Any],
        data: bytes,
        channels: int,
        resolution: tuple[int, int] | None,
    ) -> Pixels:
        child, is_sound = self._places.get(), False
        try:
            child = child or self._start()
            pixels = child.ask(about, data, channels, resolution, self.limits.max_pixels)
            is_sound = True
        except AtelierError:
            is_sound = True
            raise
        else:
            return pixels
        finally:
            self._put_back(child, is_sound=is_sound)

    def _start(self) -> DecoderProcess:
        with self._guard:
            if self._closed:
                raise Unavailable("the service is being stopped", retry_after=1.0)
        memory = BYTES_PER_PIXEL * self.limits.max_pixels + 2 * self.limits.max_bytes + SPARE_BYTES
        return DecoderProcess(
            {
                "limits": asdict(self.limits),
                "memory_bytes": memory,
                "cpu_seconds": self._settings.cpu_seconds,
            },
            self._settings.cpu_seconds,
        )

    def _put_back(self, child: DecoderProcess | None, *, is_sound: bool) -> None:
        with self._guard:
            if child is not None and (self._closed or not is_sound):
                child.end()
                child = None
            self._places.put(child)
