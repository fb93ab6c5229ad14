"""Serving a GAN's generator, and the networks that were trained beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.labels import label_index
from services.core.model import Conditioning, ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import to_pixels
from services.core.trajectory import Result, Trajectory, Workload
from services.families.gan import parameters as asked
from services.families.gan.codes import CodesSpec, TraverseCodes, traverse_codes
from services.families.gan.growth import FINEST, GrowthSpec
from services.families.gan.readings import CRITIC, ENCODER, GIVES, RECOGNITION, Readers
from services.families.latent import (
    Frames,
    LatentSpec,
    Options,
    check_frames,
    ends,
    generator,
    latent_from,
    latent_limits,
)
from services.families.traversal import LatentTraversal, check_traversal, traversal_values

TRUNCATION_UNIT = 2.0
READING = "reading"


class GanOptions(Options):
    """Options of a GAN's manifest; the latent's shape is read off the graph when absent.

    ``reference_realness`` holds ascending quantiles of a critic's scores of held-out images.
    """

    latent: LatentSpec | None = None
    labels: tuple[str, ...] = ()
    codes: CodesSpec | None = None
    growth: GrowthSpec | None = None
    reference_realness: list[float] | None = None


class GanEngine(Engine):
    """``image = G(z)``, with a label or codes where the generator takes them.

    A manifest may name an ``encoder`` (VAE-GAN), a ``recognition`` network (InfoGAN's Q) and a
    ``critic`` beside the generator. A generator that grew gives the image at every resolution of
    its growth, and a request chooses.
    """

    family: ClassVar[str] = "gan"

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        told: list[Conditioning] = ["label"] if self.options.labels else []
        told += ["codes"] if self.options.codes else []
        codes = self.options.codes.limits() if self.options.codes else {}
        growth = self.options.growth.limits() if self.options.growth else {}
        return self.model_info(
            conditioning=tuple(told) or ("none",),
            likelihood="none",
            labels=self.options.labels,
            limits=latent_limits(self.options.latent) | codes | growth,
        )

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = GanOptions.read(self.model.id, self.model.options)
        self.has_encoder = ENCODER in self.model.networks
        self._check_growth()
        self._operations = self._offered()

    def setup(self) -> None:
        """See `Engine.setup`."""
        inputs = ["z"]
        inputs += ["label"] if self.options.labels else []
        if self.options.codes:
            inputs += ["category"]
            inputs += ["continuous"] if self.options.codes.continuous else []
        growth = self.options.growth
        outputs = growth.outputs if growth else [FINEST]
        self.generator: Network = self.model.network("generator", inputs=inputs, outputs=outputs)
        self.shape = self.latent_shape(
            self.options.latent.shape if self.options.latent else None, self.generator.inputs["z"]
        )
        self.readers = Readers(self.model, self.device, self.options.reference_realness or ())

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return self._operations

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        if name == "likelihood":
            return self._no_likelihood()
        if name == "encode":
            return f"{self.model.id} has no encoder; a VAE, a flow or a diffusion model can encode"
        if name == "reconstruct" and RECOGNITION in self.model.networks:
            return (
                f"{self.model.id} reads codes in an image, not the noise that would make it again, "
                "so it cannot reconstruct; a VAE, a VAE-GAN or a flow can"
            )
        return f"{self.model.id} cannot {name}; it offers {', '.join(self.operations())}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        if isinstance(parameters, LatentTraversal):
            check_traversal(call, parameters)
        if self.options.growth and hasattr(parameters, "alpha"):
            self.options.growth.check_fade(parameters)
        label = getattr(parameters, "label", None)
        if label is not None:
            self._label_index(label)

    def workload(self, job: Job[Any]) -> Workload:
        """One evaluation, in `decode`."""
        return Workload(decode=READING if job.name == "encode" else "generator")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        table = self.operations()
        jobs: list[Job[Any]] = [
            Job("rehearsal", self.model.id, "generate", table["generate"]()),
        ]
        if "encode" in table:
            blank = np.zeros((self.model.channels, *self.model.resolution), np.uint8)
            jobs.append(
                Job("rehearsal", self.model.id, "encode", table["encode"](), images=(blank,))
            )
        return jobs

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Draw latents, labels and codes, each from its job's own seed; encode images once."""
        encoded = self.readers.posteriors([job for job in jobs if job.name != "encode"])
        return [self._start(job, encoded) for job in jobs]

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """``G`` of the whole batch, or what is read in the images that came."""
        if batch[0].workload.decode == READING:
            found = self.readers.read([t.job.images[0] for t in batch])
            return [Result(values=values) for values in found]
        inputs = {"z": torch.stack([t.x for t in batch]).to(self.device)}
        for name in batch[0].condition:
            inputs[name] = torch.stack([t.condition[name] for t in batch]).to(self.device)
        pixels = self._pixels(self.generator(**inputs), batch)
        scores = self.readers.realness(pixels)
        return [
            Result(image, {**self._values(t), **score})
            for t, image, score in zip(batch, pixels, scores, strict=True)
        ]

    def _pixels(self, given: Mapping[str, Tensor], batch: Sequence[Trajectory]) -> list[Pixels]:
        growth, pixel_range = self.options.growth, self.model.pixel_range
        if growth is None:
            return to_pixels(given[FINEST], pixel_range)
        return [
            to_pixels(growth.shown(given, row, t.job.parameters), pixel_range)[0]
            for row, t in enumerate(batch)
        ]

    def _check_growth(self) -> None:
        growth = self.options.growth
        if growth is None:
            return
        growth.check(self.model.id, self.model.resolution)
        if CRITIC in self.model.networks:
            raise InvalidManifest(
                f"the manifest of '{self.model.id}' has growth and a critic; a critic judges "
                "images of one size, those of a growth have several"
            )

    def _offered(self) -> dict[str, type[Parameters]]:
        """The operations of a model with these options and networks."""
        codes = self.options.codes
        told = dict(asked.LABEL_FIELDS) if self.options.labels else {}
        told |= codes.fields() if codes else {}
        told |= self.options.growth.fields() if self.options.growth else {}
        traverse: type[asked.Traverse] = asked.Traverse
        if codes is not None:
            traverse = traverse_codes(codes)
        elif self.has_encoder:
            traverse = asked.TraverseFromImage
        interpolate = asked.InterpolateImages if self.has_encoder else asked.Interpolate
        table: dict[str, type[Parameters]] = {
            "generate": asked.conditioned(asked.Generate, told),
            "interpolate": asked.conditioned(interpolate, told),
            "traverse": asked.conditioned(traverse, told),
        }
        if self.has_encoder:
            table["reconstruct"] = asked.conditioned(asked.Reconstruct, told)
        gives = [value for name in GIVES if name in self.model.networks for value in GIVES[name]]
        if codes is not None and codes.continuous and RECOGNITION in self.model.networks:
            gives.append("continuous")
        if gives:
            table["encode"] = asked.encode_giving(tuple(gives))
        return table

    def _no_likelihood(self) -> str:
        instead = "ask a flow (exact), a VAE or a diffusion model (lower bounds)"
        if self.has_encoder:
            return (
                f"{self.model.id} is a VAE-GAN: its decoder was trained by an opponent, not as the "
                "mean of a distribution of pixels, so there is no density that a bound could be "
                f"of; {instead}"
            )
        score = ""
        if (
            "encode" in self.operations()
            and "realness" in self._operations["encode"].described()["x-gives"]
        ):
            score = " (the realness that it encodes is a critic's score, no density)"
        return (
            f"{self.model.id} is a GAN: its generator turns noise into images but gives no image a "
            f"density, so it has no likelihood{score}; {instead}"
        )

    def _start(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Trajectory:
        parameters = job.parameters
        if job.name == "encode":
            nothing = torch.zeros(())
            return Trajectory(
                job=job, workload=self.workload(job), x=nothing, generator=generator(job.seed)
            )
        shared = isinstance(parameters, Frames | LatentTraversal)
        source = generator(parameters.seed if shared else job.seed)
        z = self._latent(job, source, [encoded[id(image)] for image in job.images])
        condition = self._condition(parameters, source)
        if isinstance(parameters, TraverseCodes):
            condition = parameters.told(condition, job.index)
        return Trajectory(
            job=job, workload=self.workload(job), x=z, generator=source, condition=condition
        )

    def _latent(self, job: Job[Any], source: torch.Generator, encoded: Sequence[Tensor]) -> Tensor:
        parameters = job.parameters
        if isinstance(parameters, asked.Interpolate):
            start, end = ends(
                parameters,
                self.shape,
                lambda seed: self._draw(generator(seed), parameters.truncation),
                encoded,
            )
            return parameters.between(start, end, job.index)
        if encoded:
            z = encoded[0]
        elif parameters.latents is not None:
            z = latent_from(parameters.latents, self.shape)
        else:
            z = self._draw(source, parameters.truncation)
        return parameters.moved(z, job.index) if isinstance(parameters, LatentTraversal) else z

    def _draw(self, source: torch.Generator, truncation: float) -> Tensor:
        """A standard normal latent; truncated by inverting the normal's distribution function."""
        if truncation == 1.0:
            return torch.randn(self.shape, generator=source)
        bound = 0.5 * (1 + math.erf(TRUNCATION_UNIT * truncation / math.sqrt(2)))
        uniform = torch.rand(self.shape, generator=source, dtype=torch.float64)
        quantiles: Tensor = torch.special.ndtri(1 - bound + uniform * (2 * bound - 1))
        return quantiles.float()

    def _condition(self, parameters: Any, source: torch.Generator) -> dict[str, Tensor]:
        condition: dict[str, Tensor] = {}
        if self.options.labels:
            condition["label"] = self._label(parameters.label, source)
        if self.options.codes:
            condition |= self.options.codes.drawn(parameters, source)
        return condition

    def _label(self, label: int | str | None, source: torch.Generator) -> Tensor:
        if label is None:
            return torch.randint(len(self.options.labels), (), generator=source)
        return torch.tensor(self._label_index(label))

    def _label_index(self, label: int | str) -> int:
        return label_index(label, self.options.labels, model_id=self.model.id)

    def _values(self, trajectory: Trajectory) -> dict[str, Any]:
        job, condition = trajectory.job, trajectory.condition
        values: dict[str, Any] = {"seed": job.seed}
        if "label" in condition:
            values["label"] = self.options.labels[int(condition["label"])]
        if "category" in condition:
            values["category"] = int(condition["category"])
        if "continuous" in condition:
            values["continuous"] = condition["continuous"].tolist()
        if isinstance(job.parameters, LatentTraversal):
            values |= traversal_values(job.parameters, job.index)
        return values
