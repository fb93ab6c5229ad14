"""Images in and out: what comes back, and what is refused before it can do harm."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.core.errors import (
    AtelierError,
    InvalidImage,
    InvalidParameter,
    TooLarge,
    UnsupportedMedia,
)
from services.core.images import ImageLimits, Pixels, decode, decode_mask, encode, read_header
from services.core.job import Encoding

LIMITS = ImageLimits()
ORIENTATION = 0x0112


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    return file_of(Image.fromarray(array), **options)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", [Encoding("png"), Encoding("webp", 100)])
def test_lossless_formats_come_back_exactly(channels: int, encoding: Encoding) -> None:
    pixels = noise(channels, 9, 13)
    again = decode(encode(pixels, encoding), (9, 13), channels, LIMITS)
    assert again.dtype == np.uint8
    assert np.array_equal(again, pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_formats_come_back_nearly_and_less_so_at_lower_quality(
    channels: int, kind: Any
) -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    pixels = np.broadcast_to(np.add.outer(ramp // 2, ramp // 2), (channels, 32, 32)).copy()
    errors = []
    for quality in (95, 0):
        data = encode(pixels, Encoding(kind, quality))
        again = decode(data, (32, 32), channels, LIMITS)
        errors.append(float(np.abs(again.astype(int) - pixels.astype(int)).mean()))
    assert errors[0] < 3
    assert errors[0] < errors[1]


def test_the_format_is_the_one_that_was_asked_for() -> None:
    for name in ("png", "jpeg", "webp"):
        data = encode(noise(3, 4, 4), Encoding(name, 90))
        assert read_header(data, LIMITS).format == name.upper()


def test_files_carry_no_metadata() -> None:
    for name in ("png", "jpeg", "webp"):
        image = Image.open(io.BytesIO(encode(noise(3, 4, 4), Encoding(name, 90))))
        assert not image.getexif()
        assert {"icc_profile", "comment", "Software"}.isdisjoint(image.info)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 255
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = png(np.ascontiguousarray(inverse(upright)), exif=exif)
    assert np.array_equal(decode(data, (8, 16), 3, LIMITS), upright.transpose(2, 0, 1))


def test_a_palette_is_looked_up() -> None:
    colors = np.array([[255, 0, 0], [0, 128, 255]], np.uint8)
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette(colors.tobytes())
    again = decode(file_of(image), (2, 2), 3, LIMITS)
    assert np.array_equal(again.transpose(1, 2, 0), colors[[[0, 1], [1, 0]]])


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    again = decode(png(values), (2, 3), 1, LIMITS)
    assert again.tolist() == [[[0, 0, 1], [128, 254, 255]]]


def test_transparency_is_laid_on_white() -> None:
    values = np.zeros((1, 3, 4), np.uint8)
    values[0, :, 3] = (0, 128, 255)
    again = decode(png(values), (1, 3), 3, LIMITS)
    assert again[:, 0, 0].tolist() == [255, 255, 255]
    assert again[:, 0, 1].tolist() == [127, 127, 127]
    assert again[:, 0, 2].tolist() == [0, 0, 0]


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette(bytes([10, 20, 30, 40, 50, 60]))
    again = decode(file_of(image, transparency=0), (1, 2), 3, LIMITS)
    assert again[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


def test_grey_is_luminance_and_colour_of_grey_is_grey() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert decode(png(red), (2, 2), 1, LIMITS).tolist() == [[[76, 76], [76, 76]]]
    grey = decode(png(noise(4, 4)), (4, 4), 3, LIMITS)
    assert np.array_equal(grey[0], grey[1])
    assert np.array_equal(grey[0], grey[2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factors", [(2, 2), (7, 7), (3, 5), (16, 1)])
def test_an_image_enlarged_by_whole_pixels_comes_back_exactly(
    factors: tuple[int, int], channels: int
) -> None:
    pixels = noise(channels, 8, 8, seed=3)
    large = np.ascontiguousarray(pixels.repeat(factors[0], 1).repeat(factors[1], 2))
    data = encode(large, Encoding("png"))
    assert np.array_equal(decode(data, (8, 8), channels, LIMITS), pixels)


def test_other_sizes_are_resized_to_the_model() -> None:
    flat = np.full((10, 7, 3), 93, np.uint8)
    again = decode(png(flat), (4, 6), 3, LIMITS)
    assert again.shape == (3, 4, 6)
    assert (again == 93).all()


def test_the_first_frame_of_a_phones_double_picture_is_taken() -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (40, 200))
    data = file_of(first, "MPO", save_all=True, append_images=[second])
    assert abs(decode(data, (8, 8), 3, LIMITS).astype(int) - 40).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(kind: str, share: float) -> None:
    data = file_of(Image.fromarray(noise(40, 40, 3)), kind)
    with pytest.raises((InvalidImage, UnsupportedMedia)) as caught:
        decode(data[: int(len(data) * share)], (8, 8), 3, LIMITS, param="picture")
    assert caught.value.param == "picture"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(40),
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        file_of(Image.new("RGB", (4, 4)), "GIF"),
        file_of(Image.new("RGB", (4, 4)), "BMP"),
        file_of(Image.new("RGB", (4, 4)), "TIFF"),
    ],
)
def test_what_is_none_of_the_three_formats_is_refused_by_its_content(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="not a PNG, JPEG or WebP"):
        decode(data, (4, 4), 3, LIMITS)


@pytest.mark.parametrize(
    "signature", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBP"]
)
def test_a_signature_before_something_else_is_an_invalid_image(signature: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(signature + file_of(Image.new("RGB", (4, 4)), "GIF"), (4, 4), 3, LIMITS)


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(noise(4, 4, 3, seed=i)) for i in range(3)]
    for kind in ("PNG", "WEBP"):
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(InvalidImage, match="animated"):
            decode(data, (4, 4), 3, LIMITS)


def test_too_many_bytes_are_refused_before_anything_is_read() -> None:
    with pytest.raises(TooLarge, match=r"has 101 bytes; the limit is 100"):
        decode(bytes(101), (4, 4), 3, ImageLimits(max_bytes=100))


@pytest.mark.parametrize("side", [4097, 12_000, 40_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    begun = time.process_time()  # of the processor: others' load on the machine does not count
    with pytest.raises(TooLarge):
        decode(png_header(side, side), (4, 4), 3, LIMITS)
    assert time.process_time() - begun < 2


def test_pixels_that_are_promised_and_absent_are_missed() -> None:
    with pytest.raises(InvalidImage, match="truncated"):
        decode(png_header(64, 64), (4, 4), 3, LIMITS)


def test_a_bomb_in_the_metadata_is_refused() -> None:
    data = file_of(Image.new("RGB", (4, 4)))
    text = b"Comment\0\0" + zlib.compress(bytes(20 << 20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(InvalidImage):
        decode(data[:33] + chunk + data[33:], (4, 4), 3, LIMITS)


def tidy_checksums(data: bytes) -> bytes:
    """A PNG's chunks with checksums that fit, so that what is wrong lies deeper."""
    result, place = data[:8], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        result += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return result


def samples() -> list[bytes]:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "a description"
    picture = Image.fromarray(noise(12, 12, 3))
    files = [file_of(picture, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP")]
    return [*files, file_of(picture.convert("P"), transparency=0)]


@settings(max_examples=300, deadline=None, database=None)
@given(
    data=st.sampled_from(samples()),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0.1, 1),
    tidy=st.booleans(),
)
def test_damaged_files_give_pixels_or_a_typed_error(
    data: bytes, damage: list[tuple[float, int]], length: float, tidy: bool
) -> None:
    damaged = bytearray(data)
    for place, value in damage:
        damaged[int(place * len(damaged))] = value
    cut = bytes(damaged[: int(length * len(damaged))])
    limits = ImageLimits(max_pixels=10_000)
    for read in (lambda d: decode(d, (8, 8), 3, limits), lambda d: decode_mask(d, (8, 8), limits)):
        try:
            pixels: Pixels = read(tidy_checksums(cut) if tidy and cut[:4] == b"\x89PNG" else cut)
        except AtelierError:
            continue
        assert pixels.shape[1:] == (8, 8)


@pytest.mark.parametrize("tag", [0x0100, 0x010E, 0x011A, 0x0128, 0x8769])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(2, b"abc\0"), (7, b"abcd"), (9, b"\xff\xff\xff\xfb"), (11, b"\x7f\xc0\0\0")],
)
def test_metadata_that_makes_no_sense_spoils_no_photograph(
    tag: int, kind: int, value: bytes
) -> None:
    entries = [(ORIENTATION, 3, 1, b"\0\x08\0\0"), (tag, kind, 1 if kind > 7 else 4, value)]
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries))
    exif += b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :4] = 255
    pixels = decode(png(picture, exif=exif), (8, 4), 3, LIMITS)
    assert (pixels[:, 4:] == 255).all()
    assert (pixels[:, :4] == 0).all()


def test_a_mask_is_white_where_the_image_is_edited() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 2] = 255
    mask[3, 0] = 127
    expected = np.where(mask == 255, 255, 0)[None]
    assert np.array_equal(decode_mask(png(mask), (4, 4), LIMITS), expected)


def test_a_mask_with_transparency_is_transparent_where_the_image_is_edited() -> None:
    mask = np.full((4, 4, 4), 255, np.uint8)
    mask[1, 2, 3] = 0
    assert decode_mask(png(mask), (4, 4), LIMITS)[0].nonzero() == ([1], [2])


def test_an_opaque_mask_with_an_alpha_channel_is_read_by_white() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[..., 3] = 255
    mask[2, 1, :3] = 255
    assert decode_mask(png(mask), (4, 4), LIMITS)[0].nonzero() == ([2], [1])


def test_a_sixteen_bit_mask_is_read_by_its_brightness() -> None:
    mask = np.array([[0, 300], [32767, 32768]], np.uint16)
    assert decode_mask(png(mask), (2, 2), LIMITS).tolist() == [[[0, 0], [0, 255]]]


def test_a_pixel_of_the_model_is_edited_if_any_part_of_it_is_marked() -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[9 * 16, 17 * 16] = 255
    small = decode_mask(png(mask), (8, 8), LIMITS)
    assert small.shape == (1, 8, 8)
    assert small[0].nonzero() == ([2], [4])


def test_a_mask_that_marks_nothing_is_refused() -> None:
    for nothing in (np.zeros((4, 4), np.uint8), np.array([[[0, 0, 0, 255]]], np.uint8)):
        with pytest.raises(InvalidParameter, match="marks nothing") as caught:
            decode_mask(png(nothing), (4, 4), LIMITS)
        assert caught.value.param == "mask"
