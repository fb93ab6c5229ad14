"""Where uploaded images become pixels: here, or in a process that can do no harm."""

from __future__ import annotations

from services.core import images
from services.core.images import ImageLimits, Pixels


class Decoder:
    """Decodes uploaded files in this process; see `services.core.isolated_decoder` for another.

    Safe to use from any thread. ``waits`` says that a call waits for another process, so that it
    must not be made in an event loop.
    """

    waits = False

    def __init__(self, limits: ImageLimits | None = None) -> None:
        """Take what an uploaded image may be."""
        self.limits = limits or ImageLimits()

    def image(
        self,
        data: bytes,
        resolution: tuple[int, int] | None,
        channels: int,
        *,
        param: str = "image",
    ) -> Pixels:
        """See `services.core.images.decode`."""
        return images.decode(data, resolution, channels, self.limits, param=param)

    def mask(self, data: bytes, resolution: tuple[int, int], *, param: str = "mask") -> Pixels:
        """See `services.core.images.decode_mask`."""
        return images.decode_mask(data, resolution, self.limits, param=param)

    def close(self) -> None:
        """Let go of what was begun for it; nothing is decoded after that."""
