"""Serving a causal transformer over words and codes, with the autoencoder of its codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidNetwork
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import require_finite, to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.autoregressive.codes import codes_from, decoder_colors, masked_codes, picture
from services.families.autoregressive.conditioning import Reader
from services.families.autoregressive.flight import Writing, drawn, evaluate, judged
from services.families.autoregressive.options import AutoregressiveOptions, Defaults
from services.families.autoregressive.parameters import (
    Encode,
    Generate,
    Inpaint,
    Likelihood,
    Reconstruct,
    Sampled,
    Told,
)
from services.families.autoregressive.results import drawing, encoding, likelihood
from services.families.latent import generator, unique_images
from services.families.likelihood import reference_set

CACHE_RANK = 4
"""Dimensions of one row's cache: depth, keys and values, positions, width."""


class AutoregressiveEngine(Engine):
    """``p(codes | words)``, the product of every code's probability under those before it.

    An image is a trajectory of one evaluation for each position. All kinds of jobs, at whatever
    position each is, share the transformer's evaluations.
    """

    family: ClassVar[str] = "autoregressive"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = AutoregressiveOptions.read(self.model.id, self.model.options)
        self.reader = Reader(self.model.id, self.options)
        self.length = self.options.length
        self.has_encoder = "encoder" in self.model.networks

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.transformer: Network = self.model.network(
            "transformer",
            inputs=["token", "position", "tokens", "cache"],
            outputs=["logits", "entry"],
        )
        self.code_decoder: Network = self.model.network(
            "decoder", inputs=["codes"], outputs=["image"]
        )
        if self.has_encoder:
            self.code_encoder: Network = self.model.network(
                "encoder", inputs=["image"], outputs=["scores"]
            )
        self.cache_shape = self._fitting_cache()
        self.colors: Tensor | None = None
        if len(self.options.levels) == 1:
            with self.device_lock:
                self.colors = decoder_colors(
                    self.code_decoder, self.options.codes, self.length, self.device
                )

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        words = self.options.tokenizer
        limits: dict[str, Any] = {
            "codes": self.options.codes,
            "levels": [list(level.shape) for level in self.options.levels],
            "latent_shape": list(self.options.latent_shape),
            "defaults": self.options.defaults.model_dump(),
        }
        if words is not None:
            limits["factors"] = {name: list(slot.values) for name, slot in words.slots.items()}
        return self.model_info(
            conditioning=(self.reader.kind,),
            likelihood="exact" if self.has_encoder else "none",
            labels=tuple(self.options.labels or ()),
            limits=limits,
            reference=reference_set(self.options.reference_log_likelihoods),
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        if not self.has_encoder:
            return {"generate": Generate}
        return {
            "generate": Generate,
            "inpaint": Inpaint,
            "reconstruct": Reconstruct,
            "likelihood": Likelihood,
            "encode": Encode,
        }

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        offers = f"it offers {', '.join(self.operations())}"
        if name == "interpolate":
            return (
                f"{self.model.id} makes images of discrete codes, and between two codes there is "
                f"nothing to walk through; interpolate with a VAE, a flow or a GAN; {offers}"
            )
        if not self.has_encoder and name in ("inpaint", "reconstruct", "likelihood", "encode"):
            return (
                f"{self.model.id} comes without the encoder that finds an image's codes, so it "
                f"cannot {name}; add the encoder to its manifest, or ask a model that has one"
            )
        return f"{self.model.id} cannot {name}; {offers}"

    def check(self, call: Call, parameters: Any) -> None:  # noqa: ARG002 - the call has no more
        """See `Engine.check`."""
        if isinstance(parameters, Told):
            self.reader.tokens(parameters)
        if isinstance(parameters, Generate) and parameters.latents is not None:
            codes_from(parameters.latents, self.options)

    def workload(self, job: Job[Any]) -> Workload:
        """One evaluation for each position up to the last code that is not known beforehand."""
        parameters = job.parameters
        if isinstance(parameters, Encode):
            return Workload(decode="codes")
        if isinstance(parameters, Reconstruct) or getattr(parameters, "latents", None) is not None:
            return Workload(decode="image")
        if isinstance(parameters, Likelihood):
            evaluations = self.reader.slots + self.length - 1
            return Workload(decode="likelihood", step="transformer", evaluations=evaluations)
        unknown = self._unknown(job)
        last = int(unknown.nonzero()[-1])
        return Workload(
            decode="image",
            step="transformer",
            evaluations=self.reader.slots + last,
            rows=2 if self._is_guided(parameters) else 1,
        )

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        parameters = Generate(guidance_scale=1.0)
        return [Job("rehearsal", self.model.id, "generate", parameters)]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Find the codes of the whole batch's images once, then start each row."""
        found = self._encoded(jobs)
        return [self._start(job, found) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One position further for every row, wherever it is."""
        rows = [t for t in batch if isinstance(t, Writing)]
        logits, entries = evaluate(self.transformer, rows, self.device)
        for given, entry in zip(logits, entries, strict=True):
            require_finite(given)
            require_finite(entry)
        open_rows = [i for i, row in enumerate(rows) if _is_drawn(row)]
        codes: dict[int, int] = {}
        if open_rows:
            chosen = drawn([rows[i] for i in open_rows], [logits[i] for i in open_rows])
            codes = dict(zip(open_rows, chosen.tolist(), strict=True))
        nats = [
            judged(row, given) if _is_judged(row) else 0.0
            for row, given in zip(rows, logits, strict=True)
        ]
        # Nothing below can fail: a batch is taken whole or not at all.
        for i, row in enumerate(rows):
            row.take(entries[i], codes.get(i), nats[i])

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for codes, values for encodings and likelihoods."""
        kind = batch[0].workload.decode
        if kind == "codes":
            return [encoding(t, self.options) for t in batch]
        codes = torch.stack([t.x for t in batch]).to(self.device)
        pixels = to_pixels(self.code_decoder(codes=codes)["image"], self.model.pixel_range)
        pairs = zip(batch, pixels, strict=True)
        if kind == "likelihood":
            return [likelihood(t, self.options, i) for t, i in pairs if isinstance(t, Writing)]
        return [drawing(t, image) for t, image in pairs]

    def preview(self, trajectory: Trajectory) -> Pixels | None:
        """Every code that is known as the one colour that it mostly stands for."""
        if self.colors is None or not isinstance(trajectory, Writing):
            return None
        known = trajectory.kept.clone()
        known[: max(0, trajectory.next_code)] = True
        return picture(trajectory.x, known, self.colors, self.options, self.model.pixel_range)

    def _fitting_cache(self) -> tuple[int, ...]:
        """The shape of one row's cache.

        Raises:
            InvalidNetwork: the networks do not fit the options, or one another.
        """
        shape = self.transformer.inputs["cache"].shape
        wanted = {
            "positions in the cache": (self.reader.slots + self.length - 1, shape[-2:-1]),
            "words": (self.reader.slots, self.transformer.inputs["tokens"].shape),
            "logits": (self.options.codes, self.transformer.outputs["logits"].shape),
            "codes": (self.length, self.code_decoder.inputs["codes"].shape),
        }
        for what, (number, given) in wanted.items():
            if tuple(given) != (number,):
                raise InvalidNetwork(
                    f"the options of '{self.model.id}' ask for {number} {what}; its networks have "
                    f"{list(given)}"
                )
        if len(shape) != CACHE_RANK:
            raise InvalidNetwork(
                f"the cache of '{self.model.id}' has rows of {list(shape)}; they must be "
                "[depth, 2, positions, width]"
            )
        return tuple(side or 0 for side in shape)

    def _is_guided(self, parameters: Sampled) -> bool:
        scale = self._settings(parameters).guidance_scale
        return scale != 1.0 and self.reader.tokens(parameters) != self.reader.nothing

    def _settings(self, parameters: Sampled) -> Defaults:
        """What the request says of drawing, completed by the model's defaults."""
        own = parameters.model_dump(include=set(Defaults.model_fields), exclude_none=True)
        return self.options.defaults.model_copy(update=own)

    def _unknown(self, job: Job[Any]) -> Tensor:
        """Which codes are to be drawn, ``[length]``."""
        if job.mask is None:
            return torch.ones(self.length, dtype=torch.bool)
        return masked_codes(job.mask, self.options)

    def _encoded(self, jobs: Sequence[Job[Any]]) -> dict[int, Tensor]:
        """Codes int64 ``[length]`` of the batch's distinct images, by their identity."""
        places = unique_images(jobs)
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        images = to_tensor([by_id[key] for key in places], self.model.pixel_range)
        scores = self.code_encoder(image=images.to(self.device))["scores"].cpu()
        require_finite(scores)
        codes = scores.argmax(dim=2)
        return {key: codes[i] for key, i in places.items()}

    def _start(self, job: Job[Any], found: Mapping[int, Tensor]) -> Trajectory:
        source, parameters, load = generator(job.seed), job.parameters, self.workload(job)
        codes = torch.zeros(self.length, dtype=torch.int64)
        if job.images:
            codes = found[id(job.images[0])]
        elif parameters.latents is not None:
            codes = codes_from(parameters.latents, self.options)
        if load.evaluations == 0:
            return Trajectory(job=job, workload=load, x=codes, generator=source)
        caption, settings = None, self.options.defaults
        if isinstance(parameters, Sampled):
            said, caption = self.reader.completed(parameters, job.seed)
            settings = self._settings(parameters)
            kept = ~self._unknown(job)
        else:
            said, kept = self.reader.tokens(parameters), torch.ones(self.length, dtype=torch.bool)
        words = [said, self.reader.nothing][: load.rows]
        return Writing(
            job=job,
            workload=load,
            x=torch.where(kept, codes, 0),
            generator=source,
            words=torch.tensor(words),
            cache=torch.zeros(load.rows, *self.cache_shape, device=self.device),
            kept=kept,
            uniforms=torch.rand(self.length, generator=source, dtype=torch.float64),
            log_probabilities=torch.zeros(self.length, dtype=torch.float64),
            settings=settings,
            revised_prompt=caption,
        )


def _is_judged(row: Writing) -> bool:
    return row.next_code >= 0 and isinstance(row.job.parameters, Likelihood)


def _is_drawn(row: Writing) -> bool:
    return row.next_code >= 0 and not bool(row.kept[row.next_code])
