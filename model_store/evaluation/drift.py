"""How far what a new version of a model makes is from what the version before makes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from model_store.evaluation.metrics.distances import frechet_distance
from model_store.evaluation.suite.asking import Report, Subject
from model_store.evaluation.suite.features import Features
from services.core.backend import Backend, BackendOver
from services.core.errors import UnsupportedTask
from services.core.job import Answer, Call, Event, Watch
from services.core.versions import of_version


@dataclass(frozen=True, slots=True)
class Drift:
    """Fréchet distances between features of images.

    Attributes:
        distance: between the new version's images and those of the version before, of the same
            seeds.
        baseline: between two sets of the version before, of different seeds: what chance alone
            makes of as many images.
    """

    distance: float
    baseline: float

    @property
    def ratio(self) -> float:
        """The distance in units of chance; about 1 or less where nothing has changed."""
        return self.distance / max(self.baseline, 1e-12)


async def measure_drift(
    backend: Backend,
    name: str,
    *,
    former: str,
    to: str,
    features: Features,
    samples: int,
    seed: int = 0,
    report: Report = lambda what, done, total: None,
) -> Drift:
    """Have both versions make images of the same seeds, and compare them.

    Args:
        backend: has both versions.
        name: the model's.
        former: the digest of the version that is served.
        to: the digest of the new one.
        features: what images are compared by.
        samples: images of each.
        seed: of the first image.
        report: told of progress.

    Raises:
        UnsupportedTask: the model makes no images from noise.
        AtelierError: a version failed.
    """
    first = await _subject(backend, name, former, seed, report)
    second = await _subject(backend, name, to, seed, report)
    others = await _subject(backend, name, former, seed + samples, report)
    sets = [
        features.vectors(await subject.generated([{}] * samples))
        for subject in (first, second, others)
    ]
    return Drift(frechet_distance(sets[1], sets[0]), frechet_distance(sets[2], sets[0]))


async def _subject(backend: Backend, name: str, digest: str, seed: int, report: Report) -> Subject:
    info = await backend.model(of_version(name, digest))
    if "generate" not in info.operations:
        raise UnsupportedTask(f"'{name}' makes no images from noise that could be compared")
    return Subject(_Version(backend, digest), info, seed=seed, report=report)


class _Version(BackendOver):
    """Every call goes to one version."""

    def __init__(self, backend: Backend, digest: str) -> None:
        super().__init__(backend)
        self._digest = digest

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        return await self._backend.run(replace(call, version=self._digest))

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`."""
        there = replace(call, version=self._digest)
        async with aclosing(self._backend.stream(there, watch)) as events:
            async for event in events:
                yield event
