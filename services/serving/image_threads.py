"""Where a pool's images are decoded and encoded: small ones where we stand, others on threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.core import images as codec
from services.core.errors import AtelierError
from services.core.images import ImageLimits
from services.core.job import Call, Encoding, Event, Item
from services.core.trajectory import Result
from services.serving.mailbox import Glimpse
from services.serving.watcher import encoded

SMALL_IMAGE_PIXELS = 128 * 128
"""Below this an image is decoded and encoded where we stand; a thread's hop would cost more."""

T = TypeVar("T")


class ImageThreads:
    """The threads of one pool.

    Args:
        decoding_waits: whether any decoding may wait, however small the image is.
    """

    def __init__(self, *, decoding_waits: bool) -> None:
        self._decoding_waits = decoding_waits
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="atelier-codec")
        # Their own: uploads that take long to decode must not keep answers from being encoded.
        self._uploads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="atelier-uploads")

    async def read(self, read: Callable[[], T]) -> T:
        """What ``read`` gives, which reads a file beside the images."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    async def decoded(self, call: Call, split: Callable[[], T]) -> T:
        """What ``split`` makes of a call, which decodes the files that came with it."""
        if not self._is_slow_to_decode(call):
            return split()
        return await asyncio.get_running_loop().run_in_executor(self._uploads, split)

    async def encoded(
        self, results: Sequence[Result], encoding: Encoding
    ) -> tuple[tuple[Item, ...], float]:
        """Items with their images encoded, and the seconds that this took."""

        def encode() -> tuple[tuple[Item, ...], float]:
            started = time.monotonic()
            items = tuple(_item(result, encoding) for result in results)
            return items, time.monotonic() - started

        if sum(_size(result) for result in results) <= SMALL_IMAGE_PIXELS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    async def shown(
        self, found: Event | Glimpse, resolution: tuple[int, int], encoding: Encoding
    ) -> Event:
        """An event as its reader gets it: a glimpse becomes a preview.

        Args:
            found: what came out of the mailbox.
            resolution: height and width of the model's images, in pixels.
            encoding: of the preview's file.
        """
        if not isinstance(found, Glimpse):
            return found
        if resolution[0] * resolution[1] <= SMALL_IMAGE_PIXELS:
            return encoded(found, resolution, encoding)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, encoded, found, resolution, encoding
        )

    def close(self) -> None:
        """Let the threads end with what they are at; what waits for them is dropped."""
        for threads in (self._threads, self._uploads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _is_slow_to_decode(self, call: Call) -> bool:
        files = [*call.images, *([call.mask] if call.mask else []), *call.controls]
        if self._decoding_waits:
            return bool(files)
        return _pixels(files) > SMALL_IMAGE_PIXELS


def _pixels(files: Sequence[bytes]) -> int:
    """Pixels to decode, by the files' headers: few bytes can hold many.

    Files that cannot be read count nothing; they are refused without being decoded.
    """
    total = 0
    for data in files:
        try:
            header = codec.read_header(data, ImageLimits())
        except AtelierError:
            continue
        total += header.width * header.height
    return total


def _size(result: Result) -> int:
    return 0 if result.pixels is None else result.pixels.shape[1] * result.pixels.shape[2]


def _item(result: Result, encoding: Encoding) -> Item:
    if result.pixels is None:
        return Item(result.values)
    return Item(result.values, codec.encode(result.pixels, encoding))
