"""How the versions of a model are served, as its operator wants it: one small file a model.

It lies at ``plans/<name>.json`` below the root of a store. Every process that serves from the store
reads it, so that all of them do the same; a model without a plan is served as it is.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from model_store.atomic_files import write_atomic
from model_store.manifest import ModelId, is_model_id
from model_store.plain_files import read_plain
from model_store.read_cache import ReadCache
from services.core.errors import InvalidManifest, ModelNotFound
from services.core.validation import explain
from services.core.versions import of_version

FOLDER = "plans"
MAX_BYTES = 64 << 10

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Canary(_Strict):
    """A version that is tried on some of the requests for a model.

    Attributes:
        former: the digest of the version that the others get.
        to: the digest of the version on trial.
        percent: the share of requests that get it.
        seed: of the hash by which a request falls on one side or the other.
        started: when it began.
        state: ``running``; ``promoted`` once it is served to all; ``rolled_back`` once to nobody.
        reason: why it ended.
        least_samples: answers of the version on trial before its errors are judged.
        error_margin: it is rolled back once its error rate is surely higher than the former's by
            this share: the lower Wilson bound of the one above the upper bound of the other.
        promote_after: answers of the version on trial after which it is served to all, unless it
            was rolled back; ``None`` leaves that to the operator.
        drift: distance between what both make of the same seeds; ``None`` where it was not
            measured.
        drift_limit: a larger distance keeps a canary from beginning.
    """

    former: Digest
    to: Digest
    percent: Annotated[FiniteFloat, Field(gt=0, le=100)]
    seed: Annotated[int, Field(ge=0)] = 0
    started: datetime
    state: Literal["running", "promoted", "rolled_back"] = "running"
    reason: Annotated[str, Field(max_length=500)] = ""
    least_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    error_margin: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0
    promote_after: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    drift: FiniteFloat | None = None
    drift_limit: FiniteFloat | None = None

    @property
    def running(self) -> bool:
        """Whether requests are divided."""
        return self.state == "running"


class Plan(_Strict):
    """What is wanted of one model.

    Attributes:
        id: the model's name.
        warm: versions that every replica loads before anybody asks; an empty text is whatever
            version is served.
        canary: the version on trial, or the last that was.
    """

    version: Literal[1] = 1
    id: ModelId
    warm: Annotated[tuple[Digest | Literal[""], ...], Field(max_length=16)] = ()
    canary: Canary | None = None

    @property
    def trial(self) -> Canary | None:
        """The canary, if it is running."""
        return self.canary if self.canary is not None and self.canary.running else None

    def wanted(self) -> list[str]:
        """References to the versions that are to be loaded before they are asked for."""
        trial = self.trial
        tried = (trial.former, trial.to) if trial is not None else ()
        return [of_version(self.id, digest) for digest in dict.fromkeys((*self.warm, *tried))]


class Plans:
    """Reads need no lock; whoever changes a plan holds the store's."""

    def __init__(self, root: Path) -> None:
        """Look below the store's ``root``."""
        self._root = root / FOLDER
        self._cache: ReadCache[Plan] = ReadCache(_read)

    def names(self) -> list[str]:
        """The models that have a plan, sorted."""
        if not self._root.is_dir():
            return []
        names = (path.name.removesuffix(".json") for path in self._root.glob("*.json"))
        return sorted(name for name in names if is_model_id(name))

    def get(self, name: str) -> Plan:
        """A model's plan; an empty one where it has none.

        Raises:
            ModelNotFound: this is no model's name.
            InvalidManifest: it is unreadable.
        """
        if not is_model_id(name):
            raise ModelNotFound(f"there is no model '{name[:64]}'", param="model")
        path = self._root / f"{name}.json"
        return self._cache.get(path) if path.exists() else Plan(id=name)

    def put(self, plan: Plan) -> None:
        """Keep a plan in the place of any other of the model."""
        path = self._root / f"{plan.id}.json"
        write_atomic(path, plan.model_dump_json(indent=2).encode())

    def forget(self, name: str) -> None:
        """Serve a model as it is, from now on."""
        (self._root / f"{name}.json").unlink(missing_ok=True)


def _read(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(read_plain(path.parent, path.name, MAX_BYTES))
    except ValidationError as error:
        raise InvalidManifest(f"plans/{path.name}: {explain(error).message}") from error
