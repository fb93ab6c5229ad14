"""How good a model's images are, by as few of them as a search can afford."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.evaluation.metrics.distances import frechet_distance
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import DOMAINS, Features, OnnxFeatures
from model_store.evaluation.suite.held_out import HeldOut
from model_store.evaluation.suite.samples import label_accuracy, prompt_agreement, tellings
from model_store.recipes.held_out import held_out_of
from services.core.backend import Backend
from services.core.errors import InvalidParameter
from services.core.model import ModelInfo
from services.tuning.asked import Workload


@dataclass(frozen=True, slots=True)
class Judge:
    """Held-out images, what they are compared by, and what each sample is told."""

    real: HeldOut
    features: Features
    told: Sequence[Mapping[str, Any]]

    async def outcome(self, backend: Backend, info: ModelInfo, seed: int) -> tuple[float, float]:
        """FID of fresh samples, and their agreement with what they were told.

        Where nothing was told, or nothing can read it, the agreement is 0 for every configuration.
        """
        subject = Subject(backend, info, seed=seed, report=lambda what, done, total: None)
        samples = await subject.generated(self.told)
        vectors = self.features.vectors(samples), self.features.vectors(self.real.images)
        fid = frechet_distance(*vectors)
        reader = DOMAINS[self.real.domain]() if self.real.domain else None
        if reader is None:
            return fid, 0.0
        if "prompt" in self.told[0]:
            found = prompt_agreement(samples, self.real, reader)
        elif "label" in self.told[0]:
            found = label_accuracy(samples, self.told, info.labels, self.real, reader)
        else:
            found = []
        return fid, found[0].value if found else 0.0


async def judge_of(backend: Backend, info: ModelInfo, workload: Workload) -> Judge:
    """What a model's images can be judged by.

    Raises:
        InvalidParameter: neither the caller nor the model's card says what to compare with, or
            nothing is known to compare by.
    """
    real = await held_out_of(backend, info, workload.against, workload.samples, workload.seed)
    if workload.features is not None:
        features: Features = OnnxFeatures(Path(workload.features))
    elif real.domain is not None:
        features = DOMAINS[real.domain]()
    else:
        raise InvalidParameter(
            f"no built-in classifier knows images like '{real.name}': compare them by "
            "--features NETWORK.onnx",
            param="features",
        )
    subject = Subject(backend, info, seed=0, report=lambda what, done, total: None)
    return Judge(real, features, tellings(subject, real, workload.samples))
