"""Metadata put into encoded images without touching their pixels.

Pillow writes metadata only while it encodes, which for JPEG would mean a second loss. The three
containers are lists of labelled pieces, so that a piece more is a matter of a header.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from services.core.job import ImageFormat

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_END = 33
"""Signature and IHDR, which must come first."""
XMP_KEYWORD = b"XML:com.adobe.xmp"
PARAMETERS_KEYWORD = b"parameters"
EXIF_PREFIX = b"Exif\x00\x00"
JPEG_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\x00"
MOST_SEGMENT_BYTES = 65_533
"""Of a JPEG segment, whose length is 16 bits and counts itself."""

_SOI, _APP0, _APP1 = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04
_VP8X_BYTES = 10


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is put into a file.

    Attributes:
        xmp: an XMP packet.
        parameters: ASCII text; ``None`` for none.
        exif: the same as EXIF, with its ``Exif`` prefix, for the formats that have no text.
    """

    xmp: bytes
    parameters: bytes | None = None
    exif: bytes | None = None


def with_metadata(data: bytes, image_format: ImageFormat, metadata: Metadata) -> bytes:
    """An encoded image with metadata in it; its pixels are what they were.

    Args:
        data: a file that `services.core.images.encode` made: it has no metadata yet.
        image_format: of the file.
        metadata: what to put in.

    Raises:
        ValueError: the file is not of that format, or a JPEG segment would be too long.
    """
    return _WRITERS[image_format](data, metadata)


def _png(data: bytes, metadata: Metadata) -> bytes:
    if not data.startswith(PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise ValueError("no PNG")
    # No compression, no language, no translated keyword: one zero byte each or two.
    chunks = _png_chunk(b"iTXt", XMP_KEYWORD + bytes(5) + metadata.xmp)
    if metadata.parameters is not None:
        chunks += _png_chunk(b"tEXt", PARAMETERS_KEYWORD + b"\x00" + metadata.parameters)
    return data[:PNG_HEADER_END] + chunks + data[PNG_HEADER_END:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _jpeg(data: bytes, metadata: Metadata) -> bytes:
    if not data.startswith(_SOI):
        raise ValueError("no JPEG")
    place = len(_SOI)
    if data[place : place + 2] == _APP0:  # JFIF stays first
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    segments = _jpeg_segment(JPEG_XMP_PREFIX + metadata.xmp)
    if metadata.exif is not None:
        segments = _jpeg_segment(metadata.exif) + segments
    return data[:place] + segments + data[place:]


def _jpeg_segment(content: bytes) -> bytes:
    if len(content) > MOST_SEGMENT_BYTES:
        raise ValueError(f"{len(content)} bytes; a JPEG segment holds {MOST_SEGMENT_BYTES}")
    return _APP1 + struct.pack(">H", len(content) + 2) + content


def _webp(data: bytes, metadata: Metadata) -> bytes:
    """In the extended layout (VP8X), which alone may hold metadata."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("no WebP")
    flags, image = _WEBP_XMP, data[12:]
    tail = _riff_chunk(b"XMP ", metadata.xmp)
    if metadata.exif is not None:
        flags |= _WEBP_EXIF
        tail = _riff_chunk(b"EXIF", metadata.exif.removeprefix(EXIF_PREFIX)) + tail
    if image[:4] == b"VP8X":
        flags |= image[8]
        header = bytes([flags]) + image[9 : 8 + _VP8X_BYTES]
        image = image[8 + _VP8X_BYTES :]
    else:
        width, height = Image.open(io.BytesIO(data), formats=("WEBP",)).size
        header = bytes([flags, 0, 0, 0]) + _three_bytes(width - 1) + _three_bytes(height - 1)
    body = b"WEBP" + _riff_chunk(b"VP8X", header) + image + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three_bytes(number: int) -> bytes:
    return number.to_bytes(3, "little")


_WRITERS: Mapping[ImageFormat, Callable[[bytes, Metadata], bytes]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
}
