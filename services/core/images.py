"""Images in and out: three formats, bounded before they are decoded, re-encoded on the way out.

No torch: arrays are uint8 ``[channels, height, width]``.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from services.core.errors import InvalidImage, InvalidParameter, TooLarge, UnsupportedMedia
from services.core.job import Encoding

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP")
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EDIT_THRESHOLD = 128
PNG_COMPRESSION = 1
"""Of 9: a quarter of the time of Pillow's default for files a tenth larger."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: "L", 3: "RGB"}
_OPAQUE = 255

# What Pillow raises for bytes that it does not understand, metadata included.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an uploaded image may be: ``max_bytes`` encoded, ``max_pixels`` decoded."""

    max_bytes: int = 20 << 20
    max_pixels: int = 16 << 20


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an encoded image says, before a pixel is decoded."""

    format: str
    width: int
    height: int


def _sniff(data: bytes) -> bool:
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or is_webp


def check_size(data: bytes, limits: ImageLimits, *, param: str = "image") -> None:
    """Refuse a file of too many bytes.

    Raises:
        TooLarge: it is.
    """
    if len(data) > limits.max_bytes:
        message = f"the image has {len(data)} bytes; the limit is {limits.max_bytes}"
        raise TooLarge(message, param=param)


def read_header(data: bytes, limits: ImageLimits, *, param: str = "image") -> ImageHeader:
    """Check an encoded image against the limits without decoding it.

    Raises:
        UnsupportedMedia: neither PNG, JPEG nor WebP by content, whatever its name says.
        TooLarge: too many bytes or pixels.
        InvalidImage: the header cannot be read, or the image is animated.
    """
    check_size(data, limits, param=param)
    if not _sniff(data):
        raise UnsupportedMedia("the content is not a PNG, JPEG or WebP image", param=param)
    image = _open(data, param)
    width, height = image.size
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"the image is {width}x{height}; the limit is {limits.max_pixels} pixels", param=param
        )
    # A phone's JPEG may carry a second picture (MPO); the first is the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InvalidImage("animated images are not supported; send one frame", param=param)
    return ImageHeader(image.format or "", width, height)


def _open(data: bytes, param: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidImage("the image's header is corrupt", param=param) from error
    except Image.DecompressionBombError as error:
        raise TooLarge("the image has far too many pixels", param=param) from error
    except _DECODE_ERRORS as error:
        raise InvalidImage(f"the image cannot be read: {error}", param=param) from error


def _load(data: bytes, limits: ImageLimits, param: str) -> Image.Image:
    """Decode, upright; 16-bit images become 8-bit ones."""
    read_header(data, limits, param=param)
    image = _open(data, param)
    try:
        image.load()
        image = _upright(image)
    except _DECODE_ERRORS as error:
        raise InvalidImage(f"the image is truncated or corrupt: {error}", param=param) from error
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held. Nothing else of the metadata is looked at, so it cannot be wrong."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To ``(width, height)``: by whole blocks where the sizes allow it, else with a Lanczos filter.

    A small image shown enlarged by whole pixels thus comes back exactly.
    """
    if image.size == size:
        return image
    whole = image.width % size[0] == 0 and image.height % size[1] == 0
    return image.resize(size, Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)


def decode(
    data: bytes,
    resolution: tuple[int, int] | None,
    channels: int,
    limits: ImageLimits,
    *,
    param: str = "image",
) -> Pixels:
    """Decode an image to what a model takes.

    Args:
        data: an encoded PNG, JPEG or WebP.
        resolution: ``(height, width)`` to resize to; ``None`` for the image's own.
        channels: 1 or 3; colour is turned to luminance, transparency is laid on white.
        limits: checked before anything is decoded.
        param: the request field to blame.

    Raises:
        UnsupportedMedia, TooLarge, InvalidImage: see `read_header`; also when it is truncated.
    """
    image = _load(data, limits, param)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(backdrop, image)
    height, width = resolution or (image.height, image.width)
    image = _resize(image.convert(_MODES[channels]), (width, height))
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array.reshape(height, width, channels).transpose(2, 0, 1))


def decode_mask(
    data: bytes, resolution: tuple[int, int], limits: ImageLimits, *, param: str = "mask"
) -> Pixels:
    """Decode a mask to ``[1, height, width]``: 255 where the image is to be edited, else 0.

    A mask with transparency says so by alpha 0 (OpenAI's convention), an opaque one by white
    (diffusers' convention).

    Raises:
        InvalidParameter: the mask marks nothing.
    """
    image = _load(data, limits, param)
    alpha = np.asarray(_alpha(image))
    if (alpha < _OPAQUE).any():
        selected = alpha < EDIT_THRESHOLD
    else:
        selected = np.asarray(image.convert("L")) >= EDIT_THRESHOLD
    if not selected.any():
        raise InvalidParameter(
            "the mask marks nothing to edit; mark it with white, or with alpha 0", param=param
        )
    mask = Image.fromarray(selected.astype(np.float32))
    mask = mask.resize((resolution[1], resolution[0]), Image.Resampling.BOX)
    return np.where(np.asarray(mask) > 0, 255, 0).astype(np.uint8)[None]


def _alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return Image.new("L", image.size, _OPAQUE)
    return image.convert("RGBA").getchannel("A")


def encode(pixels: Pixels, encoding: Encoding) -> bytes:
    """Encode uint8 ``[channels, height, width]`` as a file without metadata."""
    array = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(array))
    stream = io.BytesIO()
    if encoding.format == "png":
        image.save(stream, "PNG", compress_level=PNG_COMPRESSION)
    elif encoding.format == "jpeg":
        image.save(stream, "JPEG", quality=max(1, encoding.compression), subsampling=0)
    else:
        lossless = encoding.compression == 100
        image.save(stream, "WEBP", quality=encoding.compression, lossless=lossless)
    return stream.getvalue()


def resized(pixels: Pixels, resolution: tuple[int, int]) -> Pixels:
    """Uint8 ``[channels, height, width]`` at another ``(height, width)``, by bicubic filtering."""
    size = (resolution[1], resolution[0])
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels]
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in planes])
