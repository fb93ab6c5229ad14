"""Serving a style-based generator: StyleGAN, StyleGAN2 and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import require_finite, to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.latent import generator, unique_images
from services.families.stylegan.checking import check
from services.families.stylegan.generator import Generator
from services.families.stylegan.inversion import NETWORKS, STEP, Descent, Inversion, Inverter
from services.families.stylegan.offers import offered
from services.families.stylegan.options import StyleGanOptions
from services.families.stylegan.parameters import Encode, Invert
from services.families.stylegan.places import Spaces
from services.families.stylegan.results import NOISE, images, latents
from services.families.stylegan.starting import looks

ENCODER = "encoder"
IMAGE, LATENTS = "image", "latents"


class StyleGanEngine(Engine):
    """``image = synthesis(styles(w), noise)`` with ``w = mapping(z)``, or a w for each layer.

    Karras et al., 2020, arXiv:1912.04958. A manifest may name an ``encoder`` from images to w+.
    """

    family: ClassVar[str] = "stylegan"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = StyleGanOptions.read(self.model.id, self.model.options)
        self.spaces = Spaces(self.options)
        self.has_encoder = ENCODER in self.model.networks
        self.has_gradients = all(name in self.model.gradients for name in NETWORKS)
        self._operations = offered(
            self.options, encodes=self.has_encoder, inverts=self.has_gradients
        )

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.networks = Generator(self.model, self.options, self.device)
        self.inverter = Inverter(self.model, self.networks)
        if self.has_encoder:
            self.encoder: Network = self.model.network(ENCODER, inputs=["image"], outputs=["w"])

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=("none",), likelihood="none", limits=self.options.described()
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return self._operations

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        model = self.model.id
        if name == "likelihood":
            return (
                f"{model} is a GAN: its generator turns noise into images but gives no image a "
                "density, so it has no likelihood; ask a flow (exact), a VAE or a diffusion model "
                "(lower bounds)"
            )
        if name == "invert":
            return (
                f"{model} cannot invert: descent needs the gradients of its styles and synthesis, "
                "which a safetensors export of an architecture that ships with Atelier has and an "
                "ONNX graph has not"
            )
        if name in ("encode", "reconstruct"):
            instead = "; invert finds latents without one" if self.has_gradients else ""
            return f"{model} cannot {name}: it comes without an encoder{instead}"
        return f"{model} cannot {name}; it offers {', '.join(self._operations)}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        check(call, parameters, self.spaces)

    def workload(self, job: Job[Any]) -> Workload:
        """One evaluation, in `decode`; an inversion has its steps before."""
        if isinstance(job.parameters, Encode):
            return Workload(decode=LATENTS)
        if isinstance(job.parameters, Invert):
            return Workload(decode=IMAGE, step=STEP, evaluations=job.parameters.steps)
        return Workload(decode=IMAGE)

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        names = ["generate", "encode"] if self.has_encoder else ["generate"]
        return [self._rehearsed(name) for name in names]

    def late_part(self, job: Job[Any]) -> str | None:
        """See `Engine.late_part`: the networks with their gradients."""
        return STEP if isinstance(job.parameters, Invert) else None

    def open_late(self, part: str) -> Sequence[Job[Any]]:
        """See `Engine.open_late`."""
        if part != STEP:
            return super().open_late(part)
        self.inverter.open()
        return [self._rehearsed("invert", steps=REHEARSED_STEPS)]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images of the whole batch once, and map all its noise; then start each row."""
        encoded = self._encoded(jobs)
        shown = [job for job in jobs if not isinstance(job.parameters, Encode | Invert)]
        found = iter(looks(shown, self.spaces, self.networks, encoded))
        rows = []
        for job in jobs:
            if isinstance(job.parameters, Encode):
                rows.append(self._row(job, encoded[id(job.images[0])]))
            elif isinstance(job.parameters, Invert):
                rows.append(self._descent(job, encoded))
            else:
                look = next(found)
                rows.append(self._row(job, look.x, {NOISE: look.noise}))
        return rows

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One evaluation of every inversion's image with its gradient."""
        self.inverter.step([row for row in batch if isinstance(row, Inversion)])

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images of the whole batch, or the latents that were found in those that came."""
        if batch[0].workload.decode == LATENTS:
            return latents(batch, self.networks)
        return images(batch, self.spaces, self.networks)

    def preview(self, trajectory: Trajectory) -> Pixels | None:
        """The image of an inversion's last evaluation."""
        if not isinstance(trajectory, Inversion) or trajectory.descent.image is None:
            return None
        return to_pixels(trajectory.descent.image[None], self.model.pixel_range)[0]

    def _rehearsed(self, name: str, **parameters: Any) -> Job[Any]:
        kind = self._operations[name]
        blank = np.zeros((self.model.channels, *self.model.resolution), np.uint8)
        given = (blank,) * kind.images_needed[0]
        return Job("rehearsal", self.model.id, name, kind(**parameters), images=given)

    def _encoded(self, jobs: Sequence[Job[Any]]) -> dict[int, Tensor]:
        """``[layers, D]`` of a batch's distinct images, by their identity."""
        places = unique_images(jobs) if self.has_encoder else {}
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        batch = to_tensor([by_id[key] for key in places], self.model.pixel_range)
        w = self.encoder(image=batch.to(self.device))["w"].cpu()
        require_finite(w)
        return {key: w[i] for key, i in places.items()}

    def _row(
        self, job: Job[Any], x: Tensor, condition: Mapping[str, Tensor] | None = None
    ) -> Trajectory:
        return Trajectory(
            job=job,
            workload=self.workload(job),
            x=x,
            generator=generator(job.seed),
            condition=condition or {},
        )

    def _descent(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Inversion:
        """From what the encoder finds, or from the mean of w."""
        (image,) = job.images
        start = encoded.get(id(image), self.spaces.mean.expand(self.spaces.shapes["w+"]))
        nothing = torch.zeros(self.spaces.shapes["w+"])
        return Inversion(
            job=job,
            workload=self.workload(job),
            x=start,
            generator=generator(job.seed),
            target=to_tensor([image], self.model.pixel_range)[0],
            descent=Descent(first=nothing, second=nothing, best=start),
        )
