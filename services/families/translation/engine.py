"""Serving an image-to-image generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import LEVELS, to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.latent import Options, generator
from services.families.translation.parameters import SuperResolve, Translate
from services.sampling.tiling import Tiling, tiling

MOST_SIDE = 256
"""Of an image that is to be enlarged."""
SLICE_TILES = 8
"""Tiles of one image that are evaluated before other requests have their turn."""
AT_ONCE, IN_TILES = "generator", "tiles"
"""Workloads: an image that is one evaluation, and one whose tiles are evaluated in slices."""


class TranslationOptions(Options):
    """Options of an image-to-image model's manifest.

    Attributes:
        factor: how many times as wide and high an image becomes. At 1 the model translates, and an
            image is brought to the manifest's resolution; above 1 it enlarges images of any size,
            tile by tile, and the manifest's resolution is that of a tile, enlarged.
        takes: what the image has to show, for people: it stands in the model's limits and in
            refusals.
        least_contrast: by how much some channel of the image has to differ between two places, as
            a share of the whole range; a blank sheet is refused.
    """

    factor: Annotated[int, Field(ge=1, le=8)] = 1
    takes: Annotated[str, Field(min_length=1, max_length=200)] = "an image"
    least_contrast: Annotated[float, Field(ge=0, le=1)] = 0.0


class TranslationEngine(Engine):
    """``image = G(source)``: one image, one answer."""

    family: ClassVar[str] = "translation"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = TranslationOptions.read(self.model.id, self.model.options)
        self.enlarges = self.options.factor > 1
        height, width = self.model.resolution
        if self.enlarges and (height != width or height % self.options.factor):
            raise InvalidManifest(
                f"the resolution of '{self.model.id}' is that of a tile, enlarged: a square whose "
                f"side is a multiple of {self.options.factor}, not {height} x {width}"
            )
        self.tile = (height // self.options.factor, width // self.options.factor)

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.generator: Network = self.model.network(
            "generator", inputs=["source"], outputs=["image"]
        )
        needed = (self.model.channels, *self.tile)
        found = self.generator.inputs["source"].shape
        if tuple(found) != needed:
            raise InvalidNetwork(
                f"the generator of '{self.model.id}' takes images of shape {list(found)}; a "
                f"resolution of {list(self.model.resolution)} with a factor of "
                f"{self.options.factor} needs {list(needed)}"
            )

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        limits: dict[str, Any] = {"takes": self.options.takes}
        if self.enlarges:
            limits |= {"factor": self.options.factor, "input_sides": [1, MOST_SIDE]}
        return self.model_info(conditioning=("image",), likelihood="none", limits=limits)

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {"super_resolution": SuperResolve} if self.enlarges else {"translate": Translate}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        (offered,) = self.operations()
        if name == "generate":
            onwards = (
                f", or what another model generates (generate with cascade '{self.model.id}')"
                if self.enlarges
                else ""
            )
            return (
                f"{self.model.id} makes nothing from noise alone; it takes {self.options.takes} "
                f"(edit with operation {offered}){onwards}"
            )
        if name == "likelihood":
            return (
                f"{self.model.id} answers one image with one image and gives none a density, so "
                "it has no likelihood; ask a flow (exact), a VAE or a diffusion model (lower "
                "bounds)"
            )
        if name == "encode":
            return f"{self.model.id} has no latents; a VAE, a flow or a diffusion model can encode"
        return f"{self.model.id} cannot {name}; it offers {offered}"

    def workload(self, job: Job[Any]) -> Workload:
        """One evaluation; a larger image's tiles are evaluated in slices."""
        count = len(self._tiling(job).corners) if self.enlarges else 1
        if count == 1:
            return Workload(decode=AT_ONCE)
        return Workload(decode=IN_TILES, slices=ceil(count / SLICE_TILES))

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`: one tile, and as many as make a whole slice."""
        (name,) = self.operations()
        parameters = self.operations()[name]()
        height, width = self.tile
        sizes = [(height, width)]
        if self.enlarges:
            sizes.append((height, min(MOST_SIDE, SLICE_TILES * width)))
        blanks = [np.zeros((self.model.channels, *size), np.uint8) for size in sizes]
        return [
            Job("rehearsal", self.model.id, name, parameters, images=(blank,)) for blank in blanks
        ]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Scale each image; one smaller than a tile is continued by its edges."""
        return [
            Trajectory(
                job=job,
                workload=self.workload(job),
                x=self._continued(to_tensor([job.images[0]], self.model.pixel_range)[0]),
                generator=generator(job.seed),
            )
            for job in jobs
        ]

    def decode_slice(self, batch: Sequence[Trajectory]) -> None:
        """See `Engine.decode_slice`: the next tiles of each image, all in one evaluation."""
        for t, part in zip(batch, self._slices(batch, [len(t.parts) for t in batch]), strict=True):
            t.parts.append(part)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """8-bit images of what the generator makes."""
        if batch[0].workload.decode == AT_ONCE:
            images = list(self._evaluated(torch.stack([t.x for t in batch])))
        else:
            images = [self._joined(t) for t in batch]
        return [
            Result(self._pixels(t.job, image), {"seed": t.job.seed})
            for t, image in zip(batch, images, strict=True)
        ]

    def _pixels(self, job: Job[Any], image: Tensor) -> Pixels:
        """Without what stood for the image beyond its edges."""
        (pixels,) = to_pixels(image[None], self.model.pixel_range)
        if not self.enlarges:
            return pixels
        height, width = (side * self.options.factor for side in job.images[0].shape[1:])
        return np.ascontiguousarray(pixels[:, :height, :width])

    def _joined(self, trajectory: Trajectory) -> Tensor:
        parts = list(trajectory.parts)
        while len(parts) < trajectory.workload.slices:
            parts += self._slices([trajectory], [len(parts)])
        tiles = list(chain.from_iterable(part.unbind(0) for part in parts))
        return self._tiling(trajectory.job, self.options.factor).join(tiles)

    def _slices(self, batch: Sequence[Trajectory], places: Sequence[int]) -> list[Tensor]:
        """For each image the tiles ``[n, channels, side, side]`` of one of its slices, enlarged."""
        tiles = [
            self._tiling(t.job).cut(t.x)[place * SLICE_TILES : (place + 1) * SLICE_TILES]
            for t, place in zip(batch, places, strict=True)
        ]
        made = self._evaluated(torch.stack(list(chain.from_iterable(tiles))))
        return list(made.split([len(own) for own in tiles]))

    def _evaluated(self, sources: Tensor) -> Tensor:
        return self.generator(source=sources.to(self.device))["image"].cpu()

    def _tiling(self, job: Job[Any], factor: int = 1) -> Tiling:
        """How the network sees an image, or what it makes of it at ``factor`` times the size."""
        side = self.tile[0]
        height, width = (max(side, extent) for extent in job.images[0].shape[1:])
        return tiling(height, width, side, factor)

    def _continued(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        beyond = (0, max(0, self.tile[1] - width), 0, max(0, self.tile[0] - height))
        return functional.pad(image[None], beyond, mode="replicate")[0]

    def _images(
        self, call: Call, kind: type[Parameters]
    ) -> tuple[tuple[Pixels, ...], Pixels | None]:
        if not self.enlarges:
            pixels, mask = super()._images(call, kind)
        else:
            self._count_images(call, kind)
            channels = self.model.channels
            pixels = tuple(self.image_decoder.image(one, None, channels) for one in call.images)
            mask = None
        for image in pixels:
            self._check_image(image)
        return pixels, mask

    def _check_image(self, image: Pixels) -> None:
        height, width = image.shape[1:]
        if self.enlarges and max(height, width) > MOST_SIDE:
            raise InvalidParameter(
                f"{self.model.id} enlarges images with sides from 1 to {MOST_SIDE} pixels, got "
                f"{width}x{height}",
                param="image",
            )
        planes = image.reshape(len(image), -1).astype(np.int64)
        contrast = float(np.ptp(planes, axis=1).max()) / (LEVELS - 1)
        if contrast < self.options.least_contrast:
            raise InvalidParameter(
                f"{self.model.id} takes {self.options.takes}; at {width}x{height} pixels, its "
                f"size, this image is all but blank: its values differ by {contrast:.0%} of the "
                f"range, and {self.options.least_contrast:.0%} is needed (draw with a broader pen, "
                "or in a color further from the paper's)",
                param="image",
            )
