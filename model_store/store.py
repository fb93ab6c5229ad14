"""Where models are found: the built-in catalog and the user's own store, as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from model_store.adapters.shelf import AdapterShelf
from model_store.catalog_folder import CatalogFolder
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, StoredFile, is_model_id, read_manifest
from model_store.mirror import Mirror
from model_store.plain_files import PlainFile, digest
from model_store.plans import Plan, Plans
from model_store.signing import TrustedKeys
from model_store.user_store import UserStore
from model_store.versions import digest_of
from services.core.errors import (
    AtelierError,
    IntegrityFailure,
    InvalidManifest,
    ModelError,
    ModelExists,
    ModelNotFound,
)
from services.core.validation import near
from services.core.versions import split_version

CATALOG = Path(__file__).parent / "catalog"
CLASSIFIERS = Path(__file__).parent / "classifiers"
"""Classifiers for policies that come with the code; they make no images and are not served."""

URL_MARK = "://"

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

    def versions(self, model_id: str) -> list[str]:
        """The digests of all versions of one of `ids`, that which is served first."""
        ...

    def version(self, model_id: str, prefix: str) -> Manifest:
        """The version of one of `ids` whose digest begins so."""
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


def default_root(environment: Mapping[str, str]) -> Path | str:
    """Where the user's models are kept, unless a setting says otherwise.

    ``ATELIER_STORE``, a folder or a URL that fsspec opens, else ``$XDG_DATA_HOME/atelier/models``,
    else the same below ``~/.local/share``.
    """
    told = environment.get("ATELIER_STORE")
    if told:
        return told if URL_MARK in told else Path(told).expanduser()
    data = environment.get("XDG_DATA_HOME", "")
    base = Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share"
    return base / "atelier" / "models"


class Store:
    """Finds, verifies and reads models; the catalog's names come first.

    Every call looks at the folders as they are, so a model that another process adds is there at
    once. A name is checked against its grammar before the file system is touched. Where a model is
    named, so may be one version of it: ``name@digest``, see `services.core.versions`.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        catalogs: Sequence[Path] = (CATALOG,),
        limits: StoreLimits | None = None,
        trust: TrustedKeys | None = None,
    ) -> None:
        """Keep the user's models below ``root``, a folder or a URL; see `default_root`.

        With ``trust``, those that are not signed are as if they could not be read; what the
        catalogs hold comes with the code.

        Raises:
            InvalidParameter: no file system is installed for the URL.
            Unavailable: the URL cannot be reached, and was never mirrored on this machine.
        """
        self.limits = limits or StoreLimits()
        self._mirror = Mirror(str(root)) if URL_MARK in str(root) else None
        root = Path(root) if self._mirror is None else self._mirror.root
        self.user = UserStore(root, self.limits, read_manifest, trust=trust, mirror=self._mirror)
        self.adapters = AdapterShelf(root, self.limits, trust, self._mirror)
        self.plans = Plans(root)
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
            ModelNotFound: there is none of that name or version; the message offers near ones.
            InvalidManifest: it is there, and unreadable.
        """
        return self._found(model_id)[1]

    def entry(self, model_id: str) -> Entry:
        """What `get` gives, with origin and size."""
        source, manifest = self._found(model_id)
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
        try:
            source, manifest = self._found(model_id)
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
        """Forget one of the user's models with all its versions, or one version that is not served.

        Raises:
            ModelNotFound: there is none of that name or version.
            ModelError: it is built in, or the version that is served, and stays.
        """
        name, version = split_version(model_id)
        self._check_own(name)
        if version:
            self._check_idle(name, self.user.version(name, version))
            self.user.remove_version(name, version)
        else:
            self.user.remove(name)
            with self.user.writing():
                self.plans.forget(name)

    def versions(self, model_id: str) -> Sequence[str]:
        """The digests of all versions of a model, that which is served first.

        Raises:
            ModelNotFound, InvalidManifest: see `get`.
        """
        return self._source(model_id).versions(model_id)

    def put_version(self, manifest: Manifest, contents: Mapping[str, bytes | PlainFile]) -> str:
        """Store another version of one of the user's models, inspected as for `put`.

        Returns:
            Its digest. It is served once `serve` says so.

        Raises:
            ModelNotFound: there is no such model.
            ModelError: it is built in, or of another family.
            IntegrityFailure: a file's bytes are not those of its digest.
        """
        self.check_version(manifest.id, manifest.family)
        return self.user.put_version(manifest, contents)

    def check_version(self, model_id: str, family: str) -> None:
        """Refuse what can be no version of a model; raises as `put_version` does."""
        self._check_own(model_id)
        served = self.user.manifest(model_id)
        if served.family != family:
            raise ModelError(
                f"'{model_id}' is of family '{served.family}', and so are all its versions; add "
                f"one of family '{family}' by another name"
            )

    def serve(self, model_id: str, digest: str) -> None:
        """Serve another version of one of the user's models from now on.

        Raises:
            ModelNotFound: there is no such model or version.
            ModelError: it is built in, or a canary of another version is running.
        """
        self._check_own(model_id)
        trial = self.plans.get(model_id).trial
        if trial is not None and trial.to != digest_of(self.user.version(model_id, digest)):
            raise ModelError(
                f"a canary of '{model_id}' is running; end it first: atelier models promote "
                f"{model_id}, or rollback {model_id}"
            )
        self.user.serve(model_id, digest)

    def change_plan(self, model_id: str, change: Callable[[Plan], Plan]) -> Plan:
        """Change how a model is served; nobody else changes it meanwhile.

        Args:
            model_id: a model of the user or of a catalog.
            change: gives the new plan.

        Raises:
            ModelNotFound: there is no such model.
        """
        self._source(model_id)
        with self.user.writing():
            plan = change(self.plans.get(model_id))
            self.plans.put(plan)
        return plan

    def refresh(self) -> None:
        """Bring a mirror of a remote store up to date; of a folder there is nothing to do."""
        if self._mirror is not None:
            self._mirror.refresh()

    def _check_idle(self, name: str, manifest: Manifest) -> None:
        trial, digest = self.plans.get(name).trial, digest_of(manifest)
        if trial is not None and digest in (trial.former, trial.to):
            raise ModelError(
                f"version {digest[:12]}... of '{name}' is part of a running canary; end that "
                f"first: atelier models promote {name}, or rollback {name}"
            )

    def _check_own(self, model_id: str) -> None:
        if self._source(model_id) is not self.user:
            raise ModelError(f"'{model_id}' is a built-in model of the catalog and stays as it is")

    def _found(self, reference: str) -> tuple[Source, Manifest]:
        name, version = split_version(reference)
        source = self._source(name)
        manifest = source.version(name, version) if version else source.manifest(name)
        return source, manifest

    def _stored(self, model_id: str, file: str) -> tuple[Source, Manifest, StoredFile]:
        source, manifest = self._found(model_id)
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
