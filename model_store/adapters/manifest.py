"""What is kept of an adapter beside its files: its kind, the model it fits, and every digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from model_store.manifest import (
    MAX_MANIFEST_BYTES,
    Component,
    ComponentName,
    Manifest,
    ModelId,
    Sha256,
    StoredFile,
)
from model_store.plain_files import read_plain
from services.core.adapters import AdapterInfo, AdapterKind
from services.core.errors import InvalidManifest
from services.core.validation import explain

MAX_TOKEN = 64

Token = Annotated[str, StringConstraints(pattern=rf"^[^\s\x00-\x1f\x7f]{{1,{MAX_TOKEN}}}$")]


class AdapterManifest(BaseModel):
    """A registered adapter.

    ``base`` is a model's name, and ``base_digest`` says which model of that name was meant: see
    `digest_of`. ``source_sha256`` is the digest of the file that was added, where what is stored is
    a translation of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    id: ModelId
    kind: AdapterKind
    base: ModelId
    base_components: Annotated[list[ComponentName], Field(min_length=1, max_length=16)]
    base_digest: Sha256
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    created: datetime
    weights: StoredFile | None = None
    component: Component | None = None
    token: Token | None = None
    source_sha256: Sha256 | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_its_files(self) -> Self:
        if (self.kind == "controlnet") != (self.component is not None):
            raise ValueError("a ControlNet has a `component`, nothing else does")
        if (self.component is None) == (self.weights is None):
            raise ValueError("an adapter has either `weights` or a `component`")
        if (self.kind == "textual_inversion") != (self.token is not None):
            raise ValueError("a textual inversion has a `token`, nothing else does")
        return self

    @property
    def digest(self) -> str:
        """Changes with any of its files."""
        return _combined([str(file.sha256) for file in self.stored_files()])

    def stored_files(self) -> list[StoredFile]:
        """Every file that it consists of."""
        parts = list(self.component.files.values()) if self.component else []
        return [self.weights, *parts] if self.weights else parts

    def info(self, size: int) -> AdapterInfo:
        """What the service says of it; ``size`` in bytes."""
        return AdapterInfo(
            name=self.id,
            kind=self.kind,
            base=self.base,
            description=self.description,
            created=int(self.created.timestamp()),
            size=size,
            token=self.token,
            details=dict(self.details),
        )


def digest_of(base: Manifest, components: Sequence[str]) -> str | None:
    """A digest of a model's components, by which another model of the same name is told apart.

    ``None`` where the model is no pipeline, or lacks one of them.
    """
    there = base.pipeline.components if base.pipeline else {}
    if any(name not in there for name in components):
        return None
    files = [file for name in components for file in there[name].files.values()]
    return _combined([str(file.sha256) for file in files])


def read_adapter(path: Path) -> AdapterManifest:
    """Read what is kept of an adapter.

    Raises:
        UnsafeModel: it is a link or no regular file.
        InvalidManifest: it is none, or a field is missing, unknown or out of range.
        IntegrityFailure: it is absent.
    """
    data = read_plain(path.parent, path.name, MAX_MANIFEST_BYTES)
    try:
        return AdapterManifest.model_validate(json.loads(data))
    except ValidationError as error:
        raise InvalidManifest(f"{path.name}: {explain(error).message}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{path.name} is no JSON: {error}") from error


def _combined(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
