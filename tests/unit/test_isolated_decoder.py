"""Uploaded images are decoded by processes that strangers may break, and nobody notices."""

from __future__ import annotations

import io
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.core import decoder_process
from services.core.decoder import Decoder
from services.core.errors import AtelierError, InvalidImage, TooLarge, Unavailable
from services.core.images import ImageLimits, Pixels
from services.core.isolated_decoder import DecodingSettings, IsolatedDecoder, decoder_of
from tests.scripted import until

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 16)
ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (12, 20, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedDecoder]:
    found = IsolatedDecoder(LIMITS, DecodingSettings(processes=2))
    yield found
    found.close()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(COLOUR), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def endless(side: int, scans: int) -> bytes:
    """A progressive JPEG that says the same over and over, in some forty bytes each time."""
    runs = (side // 8) ** 2 >> 14  # of 2^14 blocks each that hold nothing new
    bits = "0" * 15 * runs
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + data
    table = b"\xff\xc4\x00\x14\x10" + bytes([1] + [0] * 15) + b"\xe0"
    frame = b"\xff\xc2\x00\x0b\x08" + struct.pack(">HH", side, side) + b"\x01\x01\x11\x00"
    quantizers = b"\xff\xdb\x00\x43\x00" + bytes([1] * 64)
    return b"\xff\xd8" + quantizers + frame + table + scan * scans + b"\xff\xd9"


FILES: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(Image.fromarray(COLOUR), "PNG"),
    "grey": lambda: saved(Image.fromarray(COLOUR[..., 0]), "PNG"),
    "deep": lambda: saved(Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 257), "PNG"),
    "bits": lambda: saved(Image.fromarray(COLOUR).convert("1"), "PNG"),
    "palette": lambda: saved(Image.fromarray(COLOUR).convert("P"), "PNG", transparency=3),
    "clear": lambda: saved(Image.fromarray(COLOUR).convert("RGBA").rotate(20), "PNG"),
    "text": lambda: saved(Image.fromarray(COLOUR), "PNG", icc_profile=b"x" * 300),
    "jpeg": lambda: saved(Image.fromarray(COLOUR), "JPEG", quality=80),
    "progressive": lambda: saved(Image.fromarray(COLOUR), "JPEG", progressive=True),
    "cmyk": lambda: saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "turned": turned,
    "webp": lambda: saved(Image.fromarray(COLOUR), "WEBP", quality=80),
    "lossless": lambda: saved(Image.fromarray(COLOUR), "WEBP", lossless=True, exact=True),
    "white": lambda: saved(Image.new("L", (9, 9), 255), "PNG"),
    "black": lambda: saved(Image.new("L", (9, 9)), "PNG"),
    "animated": animated,
    "bomb": bomb,
    "large": lambda: b"\x89PNG\r\n\x1a\n" + bytes(LIMITS.max_bytes),
    "svg": lambda: b"<svg onload='alert(1)'/>",
    "nothing": lambda: b"",
    "half": lambda: saved(Image.fromarray(COLOUR), "PNG")[:-200],
    "head": lambda: saved(Image.fromarray(COLOUR), "JPEG")[:30],
}


def outcome(work: Callable[[], Pixels]) -> object:
    try:
        pixels = work()
    except AtelierError as error:
        return type(error), error.message, error.param
    return pixels.dtype, pixels.tolist()


@pytest.mark.parametrize("name", FILES)
def test_the_outcome_is_that_of_decoding_here(isolated: IsolatedDecoder, name: str) -> None:
    data, here = FILES[name](), Decoder(LIMITS)
    for resolution in (None, (6, 5)):
        for channels in (1, 3):
            wanted = outcome(lambda: here.image(data, resolution, channels, param="p"))  # noqa: B023 - called at once
            assert outcome(lambda: isolated.image(data, resolution, channels, param="p")) == wanted  # noqa: B023 - as above
    wanted = outcome(lambda: here.mask(data, (6, 5)))
    assert outcome(lambda: isolated.mask(data, (6, 5))) == wanted


def test_damaged_files_are_no_different(isolated: IsolatedDecoder) -> None:
    choose, here = random.Random(0), Decoder(LIMITS)
    for name in ("png", "jpeg", "progressive", "webp", "lossless", "turned", "text"):
        whole = FILES[name]()
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(choose.randint(1, 6)):
                data[choose.randrange(len(data))] = choose.randrange(256)
            wanted = outcome(lambda: here.image(bytes(data), (6, 5), 3))  # noqa: B023 - called at once
            assert outcome(lambda: isolated.image(bytes(data), (6, 5), 3)) == wanted  # noqa: B023 - as above


def processes(decoder: IsolatedDecoder) -> list[int]:
    return [child._process.pid for child in decoder._places.queue if child is not None]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_many_at_once_get_each_their_own(isolated: IsolatedDecoder) -> None:
    shades = [saved(Image.new("L", (8, 8), shade), "PNG") for shade in range(64)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda data: isolated.image(data, (2, 2), 1), shades))
    assert [pixels[0, 0, 0] for pixels in found] == list(range(64))
    assert len(processes(isolated)) <= 2


def test_a_process_that_dies_is_replaced(isolated: IsolatedDecoder) -> None:
    data = FILES["png"]()
    before = isolated.image(data, None, 3)
    for pid in processes(isolated):
        os.kill(pid, signal.SIGSEGV)
        until(lambda pid=pid: not is_there(pid), "it died")
    assert np.array_equal(isolated.image(data, None, 3), before)


def test_a_file_that_kills_every_process_is_refused_and_the_next_one_decoded(
    isolated: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is ended at its work, as a fault of a codec would end it."""
    ask = decoder_process.DecoderProcess.ask

    def dying(child: decoder_process.DecoderProcess, *task: object) -> Pixels:
        os.kill(child._process.pid, signal.SIGSEGV)
        return ask(child, *task)  # type: ignore[arg-type]  # handed on

    with monkeypatch.context() as patch:
        patch.setattr(decoder_process.DecoderProcess, "ask", dying)
        with pytest.raises(InvalidImage, match="makes the decoder fail") as refused:
            isolated.image(FILES["png"](), None, 3, param="mask")
    assert refused.value.param == "mask"
    assert isolated.image(FILES["png"](), None, 3).shape == (3, 12, 20)


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = IsolatedDecoder(LIMITS, DecodingSettings(processes=1))
    try:
        decoder.image(FILES["png"](), None, 3)
        (stopped,) = processes(decoder)
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(decoder._places.queue[0], "_seconds", 0.1)
        with pytest.raises(InvalidImage, match="takes too long"):
            decoder.image(FILES["png"](), None, 3)
        assert not is_there(stopped)
        assert decoder.image(FILES["png"](), None, 3).shape == (3, 12, 20)
    finally:
        decoder.close()


def test_no_more_memory_is_taken_than_an_image_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.core.isolated_decoder.SPARE_BYTES", 0)
    monkeypatch.setattr("services.core.isolated_decoder.BYTES_PER_PIXEL", 1)
    decoder = IsolatedDecoder(ImageLimits(1 << 20, 1 << 24), DecodingSettings(processes=1))
    try:
        large = saved(Image.new("RGB", (4000, 4000)), "PNG")
        with pytest.raises(TooLarge, match="memory"):
            decoder.image(large, (8, 8), 3)
        assert decoder.image(FILES["png"](), None, 3).shape == (3, 12, 20)
    finally:
        decoder.close()


def test_the_largest_image_that_is_taken_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = IsolatedDecoder(ImageLimits(1 << 20, 2000 * 2000), DecodingSettings(processes=1))
    monkeypatch.setattr("services.core.isolated_decoder.SPARE_BYTES", 16 << 20)
    try:
        clear = saved(Image.new("RGBA", (2000, 2000), (1, 2, 3, 0)), "PNG")
        for resolution in (None, (7, 7)):
            assert decoder.image(clear, resolution, 3).shape[0] == 3
        assert decoder.mask(clear, (1999, 1999)).all()
        turn = Image.Exif()
        turn[0x0112] = 6
        photograph = saved(Image.new("CMYK", (2000, 2000)), "JPEG", exif=turn)
        assert decoder.image(photograph, (1999, 1999), 3).shape == (3, 1999, 1999)
    finally:
        decoder.close()


@pytest.mark.slow
def test_a_file_that_says_the_same_without_end_is_cut_off() -> None:
    data = endless(4096, 40_000)
    limits = ImageLimits(max_bytes=4 << 20, max_pixels=4096 * 4096)
    assert len(data) < limits.max_bytes
    decoder = IsolatedDecoder(limits, DecodingSettings(processes=1, cpu_seconds=1))
    try:
        with pytest.raises(InvalidImage, match="takes too long"):
            decoder.image(data, (8, 8), 3)
        assert decoder.image(endless(1024, 2), (8, 8), 3).shape == (3, 8, 8)
    finally:
        decoder.close()


def test_what_comes_back_is_not_believed() -> None:
    checked = decoder_process.checked_shape
    assert checked([3, 4, 5], 3, None, 20) == (3, 4, 5)
    for shape in ([1, 4, 5], [3, 4, 6], [3, -4, -5], [3, 4], [3, 4.0, 5], "345", [3, True, 5]):
        with pytest.raises((ValueError, TypeError)):
            checked(shape, 3, None, 20)
    with pytest.raises(ValueError, match="not asked for"):
        checked([3, 4, 5], 3, (5, 4), 20)


def test_nothing_is_left_when_it_is_closed() -> None:
    decoder = IsolatedDecoder(LIMITS, DecodingSettings(processes=2))
    decoder.image(FILES["png"](), None, 3)
    (pid,) = processes(decoder)
    decoder.close()
    assert not is_there(pid)
    with pytest.raises(Unavailable):
        decoder.image(FILES["png"](), None, 3)


SERVICE = """
import sys, time
from services.core.images import ImageLimits
from services.core.isolated_decoder import DecodingSettings, IsolatedDecoder
decoder = IsolatedDecoder(ImageLimits(), DecodingSettings())
decoder.image(sys.stdin.buffer.read(), None, 3)
(child,) = [child for child in decoder._places.queue if child is not None]
print(child._process.pid, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_service_is_killed() -> None:
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert service.stdin
    assert service.stdout
    with service:
        service.stdin.write(FILES["png"]())
        service.stdin.close()
        pid = int(service.stdout.readline())
        assert is_there(pid)
        service.kill()
    until(lambda: not is_there(pid), "the decoder's process ended")


def test_it_can_be_turned_off() -> None:
    here = decoder_of(DecodingSettings(processes=0), LIMITS)
    assert not isinstance(here, IsolatedDecoder)
    assert not here.waits


def test_no_family_decodes_uploads_itself() -> None:
    for path in (ROOT / "services" / "families").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "images.decode" not in text, path
        assert "images as codec" not in text, path
