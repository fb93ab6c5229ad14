"""Which version of a model a request gets: the pinned one, one on trial, or the one served."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, Counter

from model_store.plans import Canary, Plans
from services.core.backend import Backend, BackendOver
from services.core.errors import (
    AtelierError,
    DeadlineExceeded,
    EngineFailure,
    InvalidManifest,
    ModelError,
    ModelNotFound,
    OutOfDeviceMemory,
)
from services.core.job import Answer, Call, Event, Watch
from services.core.model import ModelInfo
from services.core.versions import SEPARATOR, of_version
from services.serving.trials import Trials

LOOK_SECONDS = 0.2
"""A canary that begins or ends is noticed after this long at the latest."""
FAULTS = (EngineFailure, OutOfDeviceMemory, ModelError, DeadlineExceeded)
"""Errors that are the version's own fault, or may be."""


class RolloutMetrics:
    """Series of trials; their labels are names of models and fixed words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        self._requests = Counter(
            "atelier_canary_requests",
            "Requests for a model with a version on trial, by the version that took them.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self._ends = Counter(
            "atelier_canary_ends",
            "Trials that ended by themselves.",
            ["model", "end"],
            registry=registry,
        )

    def request(self, model: str, *, on_trial: bool, failed: bool) -> None:
        """One request came to its end."""
        version, outcome = (
            ("trial" if on_trial else "former"),
            ("failed" if failed else "succeeded"),
        )
        self._requests.labels(model, version, outcome).inc()

    def ended(self, event: Mapping[str, str]) -> None:
        """A trial ended by its counts; see `Trials`."""
        self._ends.labels(event["model"], event["event"].removeprefix("model.")).inc()


def falls_within(canary: Canary, call: Call) -> bool:
    """Whether a call is one of the share that gets the version on trial.

    It depends on the canary's seed, the caller and the id of the request alone, so that a retry by
    the same id gets the same version from every replica.
    """
    text = f"{canary.seed}\0{call.model}\0{call.tenant}\0{call.id}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return number / 2**64 * 100 < canary.percent


def _again(call: Call, canary: Canary, arrived: float) -> Call:
    """The call for the version before, with what is left of its deadline."""
    if call.deadline is None:
        return replace(call, version=canary.former)
    left = call.deadline - (time.monotonic() - arrived)
    if left <= 0:
        raise DeadlineExceeded("the deadline passed while a version on trial failed")
    return replace(call, version=canary.former, deadline=left)


@dataclass(slots=True)
class _Look:
    at: float
    canary: Canary | None


class Rollouts(BackendOver):
    """Implements `services.core.backend.Backend` over another that has several versions of models.

    Who asks for a version by its digest gets that. A request that fails on a version on trial is
    made again on the version before, so that a trial costs nobody an answer.
    """

    def __init__(
        self,
        backend: Backend,
        plans: Plans,
        trials: Trials,
        metrics: RolloutMetrics,
        *,
        pins: Mapping[str, str] | None = None,
    ) -> None:
        """Divide the requests for the other.

        Args:
            backend: that has the versions.
            plans: say what is on trial.
            trials: are told what came of it.
            metrics: count it.
            pins: by a model's name, the digest of the version that is served whatever is stored.
        """
        super().__init__(backend)
        self._plans, self._trials, self._metrics = plans, trials, metrics
        self._pins = pins or {}
        self._looks: dict[str, _Look] = {}

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        canary = self._canary(call)
        if canary is None:
            return await self._backend.run(self._pinned(call))
        on_trial = falls_within(canary, call)
        digest, arrived = canary.to if on_trial else canary.former, time.monotonic()
        try:
            answer = await self._backend.run(replace(call, version=digest))
        except Exception as error:
            failed = self._note(call, canary, on_trial=on_trial, error=error)
            if not (failed and on_trial) or isinstance(error, DeadlineExceeded):
                raise
            return await self._backend.run(_again(call, canary, arrived))
        self._note(call, canary, on_trial=on_trial)
        return answer

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`; the other version takes over only before the first image."""
        canary = self._canary(call)
        if canary is None:
            async with aclosing(self._backend.stream(self._pinned(call), watch)) as events:
                async for event in events:
                    yield event
            return
        on_trial = falls_within(canary, call)
        digest, begun = canary.to if on_trial else canary.former, False
        there, arrived = replace(call, version=digest), time.monotonic()
        try:
            async with aclosing(self._backend.stream(there, watch)) as events:
                async for event in events:
                    begun = True
                    yield event
        except AtelierError as error:
            failed = self._note(call, canary, on_trial=on_trial, error=error)
            if begun or not (failed and on_trial) or isinstance(error, DeadlineExceeded):
                raise
            again = _again(call, canary, arrived)
            async with aclosing(self._backend.stream(again, watch)) as events:
                async for event in events:
                    yield event
        else:
            self._note(call, canary, on_trial=on_trial)

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`; a pinned model is shown as its pinned version."""
        found = await self._backend.models()
        return [await self.model(info.id) if info.id in self._pins else info for info in found]

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        if SEPARATOR not in name:
            name = of_version(name, self._pins.get(name, ""))
        return await self._backend.model(name)

    def _pinned(self, call: Call) -> Call:
        pin = "" if call.version else self._pins.get(call.model, "")
        return replace(call, version=pin) if pin else call

    def _canary(self, call: Call) -> Canary | None:
        """The running canary that a call falls under, whichever version it then gets."""
        if call.version or call.model in self._pins:
            return None
        known, now = self._looks.get(call.model), time.monotonic()
        if known is None or now - known.at >= LOOK_SECONDS:
            try:
                canary = self._plans.get(call.model).trial
            except (InvalidManifest, ModelNotFound):
                canary = None
            known = self._looks[call.model] = _Look(now, canary)
        return known.canary

    def _note(
        self, call: Call, canary: Canary, *, on_trial: bool, error: Exception | None = None
    ) -> bool:
        """Count what came of a call; returns whether the version failed."""
        failed = isinstance(error, FAULTS) or (
            error is not None and not isinstance(error, AtelierError)
        )
        if error is None or failed:
            self._trials.note(call.model, canary, on_trial=on_trial, failed=failed)
            self._metrics.request(call.model, on_trial=on_trial, failed=failed)
        return failed
