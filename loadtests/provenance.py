"""Seconds that an image's origin costs: its labels and its signed manifest.

``python -m loadtests.provenance [--seconds 3]``. Images are of noise, the longest files that there
are of their size, and of flat areas, the shortest. Each size is signed by one thread and by two.
Seconds of a core are what one image takes of one; others at work on the machine change them less
than the seconds on the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from services.core.images import Pixels, encode
from services.core.job import Call, Encoding, ImageFormat, Item, Task
from services.provenance.record import record_of
from services.provenance.settings import ProvenanceSettings
from services.provenance.stamping import Stamp

SIZES = (64, 1024)
THREADS = (1, 2)
FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")
LOSSY = 90
BENCHMARK = "provenance"
LEAST_IMAGES = 5


def pictures(size: int) -> dict[str, Pixels]:
    """The longest and the shortest files of a size."""
    noise = np.random.default_rng(1).integers(0, 256, (3, size, size), dtype=np.uint8)
    flat = np.zeros((3, size, size), np.uint8)
    flat[0, size // 4 : size // 2, size // 4 : size // 2] = 255
    return {"noise": noise, "flat": flat}


def seconds_per_image(work: Callable[[], object], threads: int, seconds: float) -> float:
    """Of a machine on which so many threads work at once, after one image as a warm-up."""
    work()
    started = time.perf_counter()
    end = started + seconds

    def until_the_end() -> int:
        done = 0
        while time.perf_counter() < end or done < LEAST_IMAGES:
            work()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(
            future.result() for future in [pool.submit(until_the_end) for _ in range(threads)]
        )
    return (time.perf_counter() - started) / done


def core_seconds(work: Callable[[], object], seconds: float) -> float:
    """What one image takes of a core."""
    work()
    end, started, done = time.perf_counter() + seconds, time.thread_time(), 0
    while time.perf_counter() < end or done < LEAST_IMAGES:
        work()
        done += 1
    return (time.thread_time() - started) / done


def measured(
    stamp: Stamp, size: int, picture: str, image_format: ImageFormat, seconds: float
) -> dict[str, Any]:
    """What one kind of image costs, beside what encoding it costs."""
    pixels = pictures(size)[picture]
    encoding = Encoding(image_format, 100 if image_format == "png" else LOSSY)
    call = Call("bench", "some-model", Task.GENERATE, {"seed": 7, "prompt": "a"}, encoding=encoding)
    data = encode(pixels, encoding)
    record = record_of(call, 0, Item({"seed": 7}, data), {"some-model": "0" * 64}, rows=1)

    def sign() -> bytes:
        return stamp.stamped(data, call, record)

    costs = {threads: seconds_per_image(sign, threads, seconds) for threads in THREADS}
    encoded = core_seconds(lambda: encode(pixels, encoding), seconds)
    return {
        "size": size,
        "picture": picture,
        "format": image_format,
        "bytes": len(data),
        "bytes_added": len(sign()) - len(data),
        "encode_core_seconds": round(encoded, 6),
        "stamp_core_seconds": round(core_seconds(sign, seconds), 6),
        **{f"stamp_seconds_{n}_threads": round(cost, 6) for n, cost in costs.items()},
    }


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()
    machine = hardware.describe()
    table = Table(title="milliseconds per image; what more threads share is per image of them all")
    headings = ("image", "file", "added", "encode, of a core", "stamp, of a core")
    for column in (*headings, *(f"stamp, {n} threads" for n in THREADS)):
        table.add_column(column, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stamp = Stamp(ProvenanceSettings(), Path(folder))
        for size in SIZES:
            for image_format in FORMATS:
                for picture in pictures(size):
                    row = measured(stamp, size, picture, image_format, options.seconds)
                    rows.append(row)
                    table.add_row(
                        f"{size}x{size} {picture} {image_format}",
                        f"{row['bytes'] / 1000:,.1f} kB",
                        f"{row['bytes_added'] / 1000:.1f} kB",
                        f"{row['encode_core_seconds'] * 1000:.2f}",
                        f"{row['stamp_core_seconds'] * 1000:.2f}",
                        *(f"{row[f'stamp_seconds_{n}_threads'] * 1000:.2f}" for n in THREADS),
                    )
    Console().print(table)
    Console().print(f"kept in {hardware.keep(BENCHMARK, {**machine, 'images': rows})}")


if __name__ == "__main__":
    main()
