"""Images that a model was not trained on: a set, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from services.core import images as codec
from services.core.errors import AtelierError, InvalidImage, InvalidParameter
from services.core.images import ImageLimits, Pixels
from services.core.job import Encoding

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SOURCE, TARGET = "source", "target"
LEAST_IMAGES = 16
"""Fewer say nothing: every measure of neighbours looks at five."""


class Factor(NamedTuple):
    """One thing that images show: the names of its values, and which is shown, ``[n]``."""

    values: Sequence[str]
    shown: Tensor


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and what an image-to-image model should make of them, row by row.

    Attributes:
        source: uint8 ``[n, channels, height, width]``.
        target: likewise.
        factors: what the targets show, where it is known.
    """

    source: Tensor
    target: Tensor
    factors: Mapping[str, Factor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Images to compare with.

    Attributes:
        name: of the set, or of the folder.
        split: which part of the set.
        images: uint8 ``[n, channels, height, width]``, at the model's resolution.
        factors: what they show, where it is known.
        captions: what they show in words, where it is known.
        domain: the built-in classifier that knows such images: ``shapes``, ``digits``,
            ``photographs``, or none.
        others: images of another kind, by a name of their own: what an anomaly is.
        translations: what a translator is given and should make of it, where there is any.
    """

    name: str
    split: str
    images: Tensor
    factors: Mapping[str, Factor] = field(default_factory=dict)
    captions: Sequence[str] = ()
    domain: str | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    translations: Pairs | None = None


def read_folder(folder: Path, *, resolution: tuple[int, int], channels: int, count: int) -> HeldOut:
    """The images of a folder and of those below it, evenly chosen where they are too many.

    A folder with folders `SOURCE` and `TARGET` holds translations: pairs of files of one name. Its
    images are the targets.

    Args:
        folder: PNG, JPEG and WebP files, told by their suffix; others are passed over.
        resolution: ``(height, width)`` that they are resized to.
        channels: 1 or 3.
        count: the most that are read.

    Raises:
        InvalidParameter: it is no folder, or holds fewer than `LEAST_IMAGES` images, or a source
            without a target, or the reverse.
        InvalidImage: a file is none of the formats, too large or broken; it is named.
    """
    if not folder.is_dir():
        raise InvalidParameter(
            f"'{folder}' is no folder; --against takes a folder of images, or the name of a "
            "built-in set: shapes, digits or photographs",
            param="against",
        )
    source, target = folder / SOURCE, folder / TARGET
    paired = source.is_dir() and target.is_dir()
    files = _files(target if paired else folder)
    if len(files) < LEAST_IMAGES:
        raise InvalidParameter(
            f"'{folder}' holds {len(files)} images ({', '.join(SUFFIXES)}); at least "
            f"{LEAST_IMAGES} are needed",
            param="against",
        )
    places = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    chosen = [files[place] for place in places]
    images = _pixels(chosen, resolution, channels)
    translations = None
    if paired:
        _check_pairs(source, target)
        sources = [source / file.relative_to(target) for file in chosen]
        translations = Pairs(_pixels(sources, resolution, channels), images)
    return HeldOut(folder.resolve().name, "all", images, translations=translations)


def fitted(images: Tensor, resolution: tuple[int, int], channels: int) -> Tensor:
    """Uint8 images as a model has them: resized as uploads are, colour turned to luminance."""
    if tuple(images.shape[1:]) == (channels, *resolution):
        return images
    files = [codec.encode(image.numpy(), Encoding()) for image in images]
    pixels = [codec.decode(data, resolution, channels, ImageLimits()) for data in files]
    return torch.from_numpy(np.stack(pixels))


def signed(images: Tensor) -> Tensor:
    """Uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())


def _check_pairs(source: Path, target: Path) -> None:
    sources, targets = (
        {file.relative_to(folder) for file in _files(folder)} for folder in (source, target)
    )
    if alone := sorted(sources ^ targets):
        raise InvalidParameter(
            f"'{alone[0]}' lies in only one of '{source}' and '{target}'; a translation is two "
            "files of one name, one in each",
            param="against",
        )


def _pixels(files: Sequence[Path], resolution: tuple[int, int], channels: int) -> Tensor:
    return torch.from_numpy(np.stack([_read(file, resolution, channels) for file in files]))


def _read(file: Path, resolution: tuple[int, int], channels: int) -> Pixels:
    try:
        limits = ImageLimits()
        if file.stat().st_size > limits.max_bytes:
            raise InvalidImage(f"it is larger than {limits.max_bytes} bytes")
        return codec.decode(file.read_bytes(), resolution, channels, limits)
    except (AtelierError, OSError) as error:
        reason = error.message if isinstance(error, AtelierError) else str(error)
        raise InvalidImage(f"'{file}' cannot be used: {reason}", param="against") from error
