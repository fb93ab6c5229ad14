"""What a GAN's other networks read in an image: latents, codes, and how real it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from services.core.images import Pixels
from services.core.job import Job
from services.core.network import Network, OpenedModel
from services.core.parameters import Latents
from services.core.pixels import require_finite, to_tensor
from services.families.latent import unique_images
from services.sampling.bounds import percentile_among

ENCODER = "encoder"
RECOGNITION = "recognition"
CRITIC = "critic"
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    ENCODER: ("mean", "log_variance"),
    RECOGNITION: ("category_logits",),
    CRITIC: ("realness",),
}
GIVES: Mapping[str, tuple[str, ...]] = {
    ENCODER: ("latents", "log_variance"),
    RECOGNITION: ("category", "category_probabilities"),
    CRITIC: ("realness",),
}
"""What each network adds to the answer of ``encode``."""


class Readers:
    """The networks beside a generator, as far as a model has them."""

    def __init__(
        self, model: OpenedModel, device: torch.device, reference: Sequence[float]
    ) -> None:
        """Open what the manifest names.

        Args:
            model: to read images for.
            device: of the networks.
            reference: ascending quantiles of held-out images' realness; may be empty.

        Raises:
            ModelError: a network is not what its name says.
        """
        self._model = model
        self._device = device
        self._reference = tuple(reference)
        self._networks: dict[str, Network] = {
            name: model.network(name, inputs=["image"], outputs=list(outputs))
            for name, outputs in OUTPUTS.items()
            if name in model.networks
        }

    def posteriors(self, jobs: Sequence[Job[Any]]) -> dict[int, Tensor]:
        """The encoder's mean for each distinct image of a batch, by the image's identity."""
        places = unique_images(jobs)
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        mean = self._run(ENCODER, [by_id[key] for key in places])["mean"].cpu()
        require_finite(mean)
        return {key: mean[i] for key, i in places.items()}

    def read(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        """Everything that the networks read in each image."""
        found: list[dict[str, Any]] = [{} for _ in images]
        for name, values in (
            (ENCODER, self._encoded),
            (RECOGNITION, self._recognized),
            (CRITIC, self.realness),
        ):
            if name in self._networks:
                for entry, more in zip(found, values(images), strict=True):
                    entry.update(more)
        return found

    def realness(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        """The critic's score of each image, where there is a critic.

        A score is no density: it is what one network learned to tell its opponent's images by.
        """
        if CRITIC not in self._networks:
            return [{} for _ in images]
        scores = self._run(CRITIC, images)["realness"].cpu()
        require_finite(scores)
        return [self._score(float(score)) for score in scores]

    def _score(self, realness: float) -> dict[str, Any]:
        if not self._reference:
            return {"realness": realness}
        percentile = percentile_among(realness, self._reference)
        return {"realness": realness, "realness_percentile": percentile}

    def _encoded(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        given = self._run(ENCODER, images)
        mean, log_variance = given["mean"].cpu(), given["log_variance"].cpu()
        require_finite(mean)
        require_finite(log_variance)
        return [
            {
                "latents": Latents.from_array(mean[i].numpy()).model_dump(),
                "log_variance": Latents.from_array(log_variance[i].numpy()).model_dump(),
                "kind": "posterior_mean",
            }
            for i in range(len(images))
        ]

    def _recognized(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        given = {name: value.cpu() for name, value in self._run(RECOGNITION, images).items()}
        for value in given.values():
            require_finite(value)
        shares = given["category_logits"].softmax(dim=1)
        rows: list[dict[str, Any]] = [
            {"category": int(row.argmax()), "category_probabilities": row.tolist()}
            for row in shares
        ]
        if "continuous_mean" in given:
            for row, mean in zip(rows, given["continuous_mean"], strict=True):
                row["continuous"] = mean.tolist()
        if "continuous_log_variance" in given:
            for row, spread in zip(rows, given["continuous_log_variance"], strict=True):
                row["continuous_std"] = (0.5 * spread).exp().tolist()
        return rows

    def _run(self, name: str, images: Sequence[Pixels]) -> Mapping[str, Tensor]:
        batch = to_tensor(images, self._model.pixel_range)
        return self._networks[name](image=batch.to(self._device))
