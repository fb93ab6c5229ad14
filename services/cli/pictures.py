"""Image files of the command line: read as they are, written where the user said."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from services.core.errors import InvalidParameter
from services.core.job import Answer, ImageFormat

STANDARD = "-"
"""Stands for standard input or output in place of a file."""

_FORMATS: dict[str, ImageFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
_SUFFIXES: dict[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def read_picture(name: str) -> bytes:
    """The bytes of an image file; ``-`` reads standard input.

    Raises:
        OSError: it cannot be read.
    """
    return sys.stdin.buffer.read() if name == STANDARD else Path(name).read_bytes()


def format_for(out: str | None, chosen: ImageFormat | None) -> ImageFormat:
    """The format to ask for: as chosen, else by the output file's suffix, else PNG.

    Raises:
        InvalidParameter: the suffix names a format that is not written.
    """
    if chosen is not None:
        return chosen
    suffix = "" if out is None or _is_folder(out) else Path(out).suffix.lower()
    if out == STANDARD or not suffix:
        return "png"
    if suffix not in _FORMATS:
        raise InvalidParameter(
            f"'{suffix}' files are not written; end --out in {', '.join(_FORMATS)}, or give "
            "--format",
            param="out",
        )
    return _FORMATS[suffix]


def destinations(out: str | None, stem: str, image_format: ImageFormat, count: int) -> list[Path]:
    """Where ``count`` images go.

    One image goes to the file that was named, several to numbered files beside it; in a folder, and
    where no name was given, they are called ``stem``.
    """
    suffix = _SUFFIXES[image_format]
    if out is None or _is_folder(out):
        first = Path(out or ".") / f"{stem}{suffix}"
    else:
        first = Path(out) if Path(out).suffix else Path(out).with_suffix(suffix)
    if count == 1:
        return [first]
    return [first.with_stem(f"{first.stem}-{index:02d}") for index in range(count)]


def write_pictures(answer: Answer, out: str | None, image_format: ImageFormat) -> None:
    """Write every image of an answer and print where it is; ``-`` writes one to standard output.

    Raises:
        InvalidParameter: several images for standard output.
        OSError: a file cannot be written.
    """
    images = [item.image for item in answer.items if item.image is not None]
    if out == STANDARD:
        if len(images) != 1:
            raise InvalidParameter(f"standard output takes one image, got {len(images)}", param="n")
        sys.stdout.buffer.write(images[0])
        sys.stdout.buffer.flush()
        return
    seeds = [item.values.get("seed") for item in answer.items]
    paths = destinations(out, f"{answer.model}-{seeds[0]}", image_format, len(images))
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    _report(answer, paths, seeds)


def _report(answer: Answer, paths: Sequence[Path], seeds: Sequence[object]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for path, seed in zip(paths, seeds, strict=True):
        console.print(f"{escape(str(path))}  [dim]seed {seed}[/dim]")
    timings = answer.timings
    Console(stderr=True, highlight=False).print(
        f"[dim]queue {timings.queue:.3f} s, prepare {timings.prepare:.3f} s, "
        f"steps {timings.step:.3f} s, decode {timings.decode:.3f} s, "
        f"encode {timings.encode:.3f} s[/dim]"
    )


def _is_folder(out: str) -> bool:
    return out.endswith("/") or Path(out).is_dir()
