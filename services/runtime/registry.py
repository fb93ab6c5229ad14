"""The models that a device holds: opened on first use, measured, and let go when room is short.

Of a model there may be several versions at once. Who names none gets the one that the source has
under the name, but as long as that is not ready, the one that was served before it: a change delays
nobody, and one that cannot be loaded takes nothing away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock, RLock
from typing import Any

import torch

from services.core.decoder import Decoder
from services.core.engine import Engine
from services.core.errors import AtelierError, InvalidManifest, ModelNotFound
from services.core.images import ImageLimits
from services.core.job import Job
from services.core.model import DocumentKind, ModelInfo
from services.core.source import ModelSource
from services.core.validation import near
from services.core.versions import SEPARATOR, of_version, split_version
from services.runtime.caps import RowCaps
from services.runtime.cost import Costs, measure

NAMED_SECONDS = 60.0
"""A version that is not served is let go when nobody has named it for so long."""
AGAIN_SECONDS = 15.0
"""A version that could not be loaded is tried again after so long, while another is served."""

Key = tuple[str, str]


@dataclass(eq=False)
class LoadedModel:
    """An engine with what was measured of it.

    ``fingerprint`` is the digest of the version; ``named`` is when somebody last asked for it by
    that digest, on ``time.monotonic``; ``failed`` when it last could not be loaded; ``begun``
    whether a request has had it loaded beside the version before. ``caps`` are row limits that a
    lack of memory taught; ``parts`` were opened late, see `Engine.late_part`; ``loading_seconds``
    is what making it ready took.
    """

    engine: Engine
    fingerprint: str
    name: str = ""
    costs: Costs = field(default_factory=Costs)
    caps: RowCaps = field(default_factory=RowCaps)
    ready: bool = False
    used: float = 0.0
    named: float = -math.inf
    failed: float = -math.inf
    begun: bool = False
    live: int = 0
    opening: Lock = field(default_factory=Lock)
    parts: set[str] = field(default_factory=set)
    loading_seconds: float = 0.0

    @property
    def id(self) -> str:
        """The model's name."""
        return self.engine.model.id

    @property
    def key(self) -> Key:
        """The model's name and its version."""
        return self.name, self.fingerprint

    @cached_property
    def info(self) -> ModelInfo:
        """What the model says of itself; the schemas in it take milliseconds to make."""
        return self.engine.describe()


class Registry:
    """Engines by model name.

    Args:
        source: where models come from.
        families: engine classes by family name.
        device: what the engines run on.
        device_lock: held during every evaluation on that device.
        only: the models to offer; ``None`` for all that the source has.
        without: models that are never offered here.
        max_loaded: models held at once; past it the least recently used idle one is let go.
        knees: by model and stage (``step``, ``decode``), the rows of a batch in place of the knee
            of the measured curve.
        limits: for uploaded images.
        decoder: of uploaded images, where the engines are not to decode them themselves.
        on_load: told the model and the seconds that loading took.
    """

    def __init__(  # noqa: PLR0913 - each is a decision of its own, made by the caller
        self,
        source: ModelSource,
        families: Mapping[str, type[Engine]],
        device: torch.device,
        device_lock: Lock,
        *,
        only: Sequence[str] | None = None,
        without: Collection[str] = (),
        max_loaded: int = 64,
        knees: Mapping[str, Mapping[str, int]] | None = None,
        limits: ImageLimits | None = None,
        decoder: Decoder | None = None,
        on_load: Callable[[str, float], None] = lambda model, seconds: None,
    ) -> None:
        self._source = source
        self._families = families
        self._device = device
        self._device_lock = device_lock
        self._only = set(only) if only is not None else None
        self._without = set(without)
        self._max_loaded = max_loaded
        self._knees = knees or {}
        self._limits = limits or ImageLimits()
        self._decoder = decoder
        self._on_load = on_load
        self._models: dict[Key, LoadedModel] = {}
        self._served: dict[str, LoadedModel] = {}
        self._lock = RLock()

    def names(self) -> list[str]:
        """The models on offer, sorted."""
        return [name for name in self._source.names() if self._offers(name)]

    def document(self, name: str, kind: DocumentKind) -> bytes:
        """What comes with a model for people; reads a file.

        Raises:
            ModelNotFound, DocumentNotFound, ModelError: see `ModelSource.document`.
        """
        model = self.find(name)
        return self._source.document(of_version(model.name, model.fingerprint), kind)

    def loaded(self) -> list[str]:
        """The models that are ready to work."""
        with self._lock:
            return sorted({model.name for model in self._models.values() if model.ready})

    def loading_seconds(self) -> dict[str, float]:
        """What loading took, of each model that is ready to work."""
        with self._lock:
            return {m.name: m.loading_seconds for m in self._models.values() if m.ready}

    def describe(self, name: str) -> ModelInfo:
        """What a model says of itself; opens no network."""
        return self.find(name).info

    def find(self, name: str) -> LoadedModel:
        """A model, described but perhaps not loaded. Picks up a changed one.

        Args:
            name: its name, or ``name@`` and the start of a version's digest.

        Raises:
            ModelNotFound: not on offer here.
            ModelError: its manifest cannot be used.
        """
        plain, version = split_version(name)
        if not self._offers(plain):
            raise self._unknown(plain)
        try:
            fingerprint = self._source.fingerprint(name)
        except ModelNotFound:
            self._forget(plain, version)
            raise
        with self._lock:
            model = self._models.get((plain, fingerprint))
            if model is None:
                engine = self._engine(of_version(plain, fingerprint))
                model = LoadedModel(engine, fingerprint, plain)
                self._models[model.key] = model
            if version:
                model.named = time.monotonic()
            return model

    def serving(self, name: str) -> LoadedModel:
        """What answers whoever asks for ``name`` now; raises as `find`.

        That is what `find` gives, or what was served before it while that is not ready yet.
        """
        model = self.find(name)
        if model.ready or SEPARATOR in name:
            return model
        with self._lock:
            return self._served.get(model.name, model)

    def load(self, name: str) -> LoadedModel:
        """A model that is ready to work; the first call opens and measures it, others wait.

        Raises:
            ModelNotFound, ModelError: see `find` and `Engine.setup`.
        """
        model = self.find(name)
        model.used = time.monotonic()
        if not model.ready:
            with model.opening:
                if not model.ready:
                    self._open(model)
        if SEPARATOR not in name and self._served.get(model.name) is not model:
            with self._lock:
                self._served[model.name] = model
            self.tidy()
        return model

    def is_due(self, model: LoadedModel) -> bool:
        """Whether to try to load a model for which another version stands in."""
        failed_lately = time.monotonic() - model.failed < AGAIN_SECONDS
        return not (model.ready or failed_lately or model.opening.locked())

    def catch_up(
        self, tell: Callable[[str, AtelierError], None] = lambda name, error: None
    ) -> None:
        """Load what takes the place of versions that are served, and let go of what has gone.

        For a thread of its own, beside the requests. ``tell`` hears of what cannot be loaded,
        which is tried again later.
        """
        with self._lock:
            served = list(self._served)
        for name in served:
            try:
                if self.is_due(self.find(name)):
                    self.load(name)
            except ModelNotFound:
                continue  # it is gone by now
            except AtelierError as error:
                tell(name, error)
        self.tidy()

    def tidy(self) -> None:
        """Let go of versions that are neither served nor named any more; their rows go on."""
        names, now = set(self.names()), time.monotonic()
        with self._lock:
            for model in list(self._models.values()):
                if model.name not in names:
                    self._forget(model.name, "")
                elif self._is_replaced(model) and now - model.named > NAMED_SECONDS:
                    self._models.pop(model.key, None)

    def _is_replaced(self, model: LoadedModel) -> bool:
        return model.ready and self._served.get(model.name, model) is not model

    def _open(self, model: LoadedModel) -> None:
        started = time.monotonic()
        self._make_room(model)
        engine = model.engine
        try:
            engine.setup()
            model.costs = measure(engine, engine.rehearsal(), self._device_lock)
            model.costs.fix_knees(self._knees.get(model.name, {}))
        except BaseException:
            model.failed = time.monotonic()
            raise
        model.loading_seconds = time.monotonic() - started
        model.ready = True
        self._on_load(model.name, model.loading_seconds)

    def _forget(self, name: str, version: str) -> None:
        with self._lock:
            if not version:
                self._served.pop(name, None)
            for key in list(self._models):
                if key[0] == name and key[1].startswith(version):
                    del self._models[key]

    def late_part(self, model: LoadedModel, job: Job[Any]) -> str | None:
        """The part of a model that a job needs and that is not open yet; ``None`` for most jobs."""
        part = model.engine.late_part(job)
        return None if part in model.parts else part

    def open_late(self, model: LoadedModel, part: str) -> None:
        """Open a part of a model and measure its costs; others who need it wait.

        Raises:
            ModelError: see `Engine.open_late`.
        """
        with model.opening:
            if part not in model.parts:
                rehearsal = model.engine.open_late(part)
                model.costs.add(measure(model.engine, rehearsal, self._device_lock))
                model.parts.add(part)

    def _offers(self, name: str) -> bool:
        return name not in self._without and (self._only is None or name in self._only)

    def _engine(self, name: str) -> Engine:
        opened = self._source.open(name, self._device)
        if opened.family not in self._families:
            known = ", ".join(sorted(self._families))
            raise InvalidManifest(f"'{name}' is of family '{opened.family}'; known are {known}")
        engine = self._families[opened.family](opened, self._device, self._limits)
        engine.device_lock = self._device_lock
        if self._decoder is not None:
            engine.image_decoder = self._decoder
        return engine

    def _make_room(self, newcomer: LoadedModel) -> None:
        with self._lock:
            held = [m for m in self._models.values() if m.ready and m is not newcomer]
            idle = sorted((m for m in held if not m.live), key=lambda m: m.used)
            for model in idle[: max(0, len(held) + 1 - self._max_loaded)]:
                self._models.pop(model.key, None)
                if self._served.get(model.name) is model:
                    del self._served[model.name]

    def _unknown(self, name: str) -> ModelNotFound:
        offers = near(name, self.names())
        hint = f"; did you mean {' or '.join(offers)}?" if offers else ""
        return ModelNotFound(f"there is no model '{name[:80]}'{hint}", param="model")
