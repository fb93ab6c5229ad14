"""Real photographs that two dependencies ship: scikit-learn's samples and scikit-image's.

Whole photographs are held out, never patches of one that was trained on.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torch import Tensor

Split = Literal["train", "validation", "test"]
Photograph = NDArray[np.uint8]

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("china", "flower", "astronaut", "camera", "brick", "grass", "gravel", "coins"),
    "validation": ("rocket",),
    "test": ("cat", "coffee"),
}
FROM_SCIKIT_LEARN = ("china", "flower")
DATA_CARD = (
    "Patches of eleven real photographs. To train: scikit-learn's *china* and *flower* (CC BY 2.0, "
    "by the Flickr users danielbuechele and vultilion) and scikit-image's *astronaut* (NASA, "
    "public domain), *camera* (Lav Varshney, CC0), *brick*, *grass*, *gravel* (CC0) and *coins* "
    "(Brooklyn Museum, no known restrictions); for choosing *rocket* (SpaceX, public domain); held "
    "out whole, to test: *chelsea* (Stefan van der Walt, CC0) and *coffee* (Rachel Michetti, CC0)."
)


@cache
def photograph(name: str) -> Photograph:
    """One photograph, uint8 ``[height, width, 3]``; grey ones have three equal channels."""
    found = load_sample_image(f"{name}.jpg") if name in FROM_SCIKIT_LEARN else getattr(data, name)()
    coloured = found if found.ndim == 3 else np.repeat(found[..., None], 3, axis=2)
    return np.ascontiguousarray(coloured[..., :3])


@cache
def photographs(split: Split) -> tuple[Photograph, ...]:
    """Each photograph of a split as it is and at half its size, which is sharper."""
    whole = [photograph(name) for name in NAMES[split]]
    return (*whole, *(halved(image) for image in whole))


def halved(image: Photograph) -> Photograph:
    """An image at half its size, by bicubic filtering."""
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def tiles(split: Split, side: int) -> NDArray[np.uint8]:
    """Every whole tile of a split's photographs, ``[n, side, side, 3]``: no two overlap."""
    found = []
    for image in photographs(split):
        rows, columns = image.shape[0] // side, image.shape[1] // side
        found += [
            image[r * side : (r + 1) * side, c * side : (c + 1) * side]
            for r in range(rows)
            for c in range(columns)
        ]
    return np.stack(found)


def shrunken(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Uint8 ``[n, h, w, 3]`` at ``1 / factor`` of the size, by Pillow's bicubic filter."""
    size = (images.shape[2] // factor, images.shape[1] // factor)
    small = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in small])


def patches(count: int, split: Split, side: int, generator: torch.Generator) -> NDArray[np.uint8]:
    """Random patches ``[count, side, side, 3]``, turned, mirrored and with channels in any order.

    Photographs are drawn by their number of pixels.
    """
    return named_patches(count, split, side, generator)[0]


def named_patches(
    count: int, split: Split, side: int, generator: torch.Generator
) -> tuple[NDArray[np.uint8], Tensor]:
    """`patches`, and the places ``[count]`` of their photographs among the split's names."""
    images = photographs(split)
    sizes = torch.tensor([float(image.shape[0] * image.shape[1]) for image in images])
    chosen = torch.multinomial(sizes, count, replacement=True, generator=generator)
    places = torch.rand(count, 2, generator=generator)
    turns = torch.randint(4, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    found = []
    for i in range(count):
        image = images[int(chosen[i])]
        top, left = (
            int(place * (extent - side + 1))
            for place, extent in zip(places[i].tolist(), image.shape[:2], strict=True)
        )
        patch = np.rot90(image[top : top + side, left : left + side], int(turns[i]))
        order = torch.randperm(3, generator=generator).numpy()
        found.append((patch[:, ::-1] if mirrored[i] else patch)[..., order])
    return np.stack(found), chosen % len(NAMES[split])


def to_unit_range(images: NDArray[np.uint8]) -> Tensor:
    """Uint8 ``[n, h, w, 3]`` to float32 ``[n, 3, h, w]`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
