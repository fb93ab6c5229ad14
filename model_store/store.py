"""Where models are found: the built-in catalog and the user's own store, as one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from model_store.adapters.shelf import AdapterShelf
from model_store.catalog_folder import CatalogFolder
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, StoredFile, is_model_id, read_manifest
from model_store.plain_files import PlainFile, digest
from model_store.signing import TrustedKeys
from model_store.user_store import UserStore
from services.core.errors import (
    AtelierError,
    IntegrityFailure,
    InvalidManifest,
    ModelError,
    ModelExists,
    ModelNotFound,
)
from services.core.validation import near

CATALOG = Path(__file__).parent / "catalog"
CLASSIFIERS = Path(__file__).parent / "classifiers"
"""Classifiers for policies that come with the code; they make no images and are not served."""

_logger = logging.getLogger(__name__)


class Source(Protocol):
    """One place that holds models."""

    @property
    def origin(self) -> str:
        """``catalog`` or ``user``."""
        ...

    def ids(self) -> list[str]:
        """Names of the models that are there now."""
        ...

    def holds(self, model_id: str) -> bool:
        """Whether ``model_id``, which is a possible name, is one of `ids`; looks at it alone."""
        ...

    def manifest(self, model_id: str) -> Manifest:
        """The manifest of one of `ids`."""
        ...

    def read(self, manifest: Manifest, file: StoredFile) -> bytes:
        """The bytes of one of the manifest's files, not yet verified."""
        ...

    def plain(self, manifest: Manifest, file: StoredFile) -> PlainFile:
        """One of the manifest's files that is to be streamed, not yet verified."""
        ...

    def size(self, manifest: Manifest) -> int:
        """Bytes that the model's files take."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A model and where it comes from: ``origin`` is ``catalog`` or ``user``; ``size`` in bytes."""

    manifest: Manifest
    origin: str
    size: int


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that is not what the manifest says, and how it differs."""

    file: str
    problem: str


def default_root(environment: Mapping[str, str]) -> Path:
    """Where the user's models are kept, unless a setting says otherwise.

    ``ATELIER_STORE``, else ``$XDG_DATA_HOME/atelier/models``, else the same below
    ``~/.local/share``.
    """
    if environment.get("ATELIER_STORE"):
        return Path(environment["ATELIER_STORE"]).expanduser()
    data = environment.get("XDG_DATA_HOME", "")
    base = Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share"
    return base / "atelier" / "models"


class Store:
    """Finds, verifies and reads models; the catalog's names come first.

    Every call looks at the folders as they are, so a model that another process adds is there at
    once. A name is checked against its grammar before the file system is touched.
    """

    def __init__(
        self,
        root: Path,
        *,
        catalogs: Sequence[Path] = (CATALOG,),
        limits: StoreLimits | None = None,
        trust: TrustedKeys | None = None,
    ) -> None:
        """Keep the user's models below ``root``; see `default_root`.

        With ``trust``, those that are not signed are as if they could not be read; what the
        catalogs hold comes with the code.
        """
        self.limits = limits or StoreLimits()
        self.user = UserStore(root, self.limits, read_manifest, trust=trust)
        self.adapters = AdapterShelf(root, self.limits, trust)
        folders = [CatalogFolder(path, self.limits) for path in catalogs]
        self._sources: tuple[Source, ...] = (*folders, self.user)

    def ids(self) -> list[str]:
        """Every model's name, sorted."""
        return sorted({model_id for source in self._sources for model_id in source.ids()})

    def list(self) -> Sequence[Manifest]:
        """Every readable manifest, sorted by id; an unreadable one is logged and left out."""
        return [entry.manifest for entry in self.entries()]

    def entries(self) -> Sequence[Entry]:
        """What `list` gives, with origin and size."""
        found = []
        for model_id in self.ids():
            try:
                found.append(self.entry(model_id))
            except (AtelierError, OSError) as error:
                _logger.warning("model '%s' is left out: %s", model_id, error)
        return found

    def get(self, model_id: str) -> Manifest:
        """One model's manifest.

        Raises:
            ModelNotFound: there is none of that name; the message offers near names.
            InvalidManifest: it is there, and unreadable.
        """
        return self._source(model_id).manifest(model_id)

    def entry(self, model_id: str) -> Entry:
        """What `get` gives, with origin and size."""
        source = self._source(model_id)
        manifest = source.manifest(model_id)
        return Entry(manifest, source.origin, source.size(manifest))

    def read(self, model_id: str, file: str) -> bytes:
        """The verified bytes of a file that the manifest names.

        Raises:
            ModelNotFound: there is no such model, or it has no such file.
            IntegrityFailure: the file is missing, or is not the one that the manifest names.
            UnsafeModel: it is a link or no regular file.
        """
        return _read_verified(*self._stored(model_id, file))

    def copy(self, model_id: str, file: str, target: Path) -> None:
        """Stream a file that the manifest names to ``target``, which stays if it is verified.

        Raises:
            ModelNotFound, IntegrityFailure, UnsafeModel: see `read`.
            TooLarge: it is over the limit of streamed files.
        """
        source, manifest, stored = self._stored(model_id, file)
        with target.open("wb") as copy:
            found = _streamed(source, manifest, stored, copy)
        if found != stored.sha256:
            target.unlink()
            raise _changed(manifest, stored, found)

    def verify(self, model_id: str) -> Sequence[FileProblem]:
        """Read every file of a model again; what is wrong with which, nothing when all is well."""
        source = self._source(model_id)
        try:
            manifest = source.manifest(model_id)
        except InvalidManifest as error:
            return [FileProblem("manifest", error.message)]
        problems = []
        for file in manifest.stored_files():
            try:
                found = _streamed(source, manifest, file, None)
                if found != file.sha256:
                    raise _changed(manifest, file, found)
            except AtelierError as error:
                problems.append(FileProblem(file.file, error.message))
        return problems

    def put(self, manifest: Manifest, contents: Mapping[str, bytes | PlainFile]) -> None:
        """Store a model that has been inspected; `model_store.addition` is what inspects.

        Raises:
            ModelExists: the name is taken, by the user's store or by a catalog.
            IntegrityFailure: a file's bytes are not those of its digest.
        """
        self.check_free(manifest.id)
        self.user.put(manifest, contents)

    def check_free(self, model_id: str) -> None:
        """Refuse a name that is taken, by a model or an adapter; raises `ModelExists`."""
        if self.adapters.holds(model_id):
            raise ModelExists(
                f"the name '{model_id}' is taken by an adapter; choose another with --name, or "
                "remove that one first"
            )
        for source in self._sources:
            if source.holds(model_id):
                raise ModelExists(
                    f"the name '{model_id}' is taken by a model of the {source.origin}; "
                    "choose another with --name, or remove that one first"
                    if source is self.user
                    else f"the name '{model_id}' is taken by a built-in model; choose another "
                    "with --name"
                )

    def remove(self, model_id: str) -> None:
        """Forget one of the user's models.

        Raises:
            ModelNotFound: there is none of that name.
            ModelError: it is built in, and stays.
        """
        source = self._source(model_id)
        if source is not self.user:
            raise ModelError(f"'{model_id}' is a built-in model of the catalog and stays")
        self.user.remove(model_id)

    def _stored(self, model_id: str, file: str) -> tuple[Source, Manifest, StoredFile]:
        source = self._source(model_id)
        manifest = source.manifest(model_id)
        files = {stored.file: stored for stored in manifest.stored_files()}
        if file not in files:
            raise ModelNotFound(
                f"model '{model_id}' has no file '{file[:128]}'; it has {', '.join(sorted(files))}"
            )
        return source, manifest, files[file]

    def _source(self, model_id: str) -> Source:
        if is_model_id(model_id):
            for source in self._sources:
                if source.holds(model_id):
                    return source
        known = self.ids()
        offers = near(model_id, known) or known[:3]
        hint = f"did you mean {' or '.join(offers)}?" if offers else "the store is empty"
        raise ModelNotFound(f"there is no model '{model_id[:64]}'; {hint}", param="model")


def _read_verified(source: Source, manifest: Manifest, file: StoredFile) -> bytes:
    if file.sha256 is None:
        raise IntegrityFailure(f"the manifest of '{manifest.id}' names no digest of '{file.file}'")
    data = source.read(manifest, file)
    found = digest(data)
    if found != file.sha256:
        raise _changed(manifest, file, found)
    return data


def _streamed(
    source: Source, manifest: Manifest, file: StoredFile, target: IO[bytes] | None
) -> str:
    """The digest of a file as it is now, and a copy of it where one is wanted."""
    if file.sha256 is None:
        raise IntegrityFailure(f"the manifest of '{manifest.id}' names no digest of '{file.file}'")
    plain = source.plain(manifest, file)
    try:
        return plain.digest() if target is None else plain.copy_to(target)
    except AtelierError as error:
        raise type(error)(error.message.replace(plain.name, file.file)) from error


def _changed(manifest: Manifest, file: StoredFile, found: str) -> IntegrityFailure:
    return IntegrityFailure(
        f"'{file.file}' of '{manifest.id}' is not the file that was stored: its SHA-256 is "
        f"{found[:16]}..., the manifest says {str(file.sha256)[:16]}...; it was not opened"
    )
