"""What a user stored, content addressed: ``blobs/<sha256>`` and ``models/<id>.json``.

Models are kept so, and adapters in a folder of their own beside them. Of a model there may be other
versions than the one that ``models/<id>.json`` is; see `model_store.versions`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from model_store.atomic_files import TEMPORARY_PREFIX, atomic_file, locked, write_atomic
from model_store.limits import StoreLimits
from model_store.manifest import StoredFile, is_model_id
from model_store.mirror import Mirror
from model_store.plain_files import PlainFile, digest, read_plain
from model_store.read_cache import ReadCache
from model_store.signing import Signed, TrustedKeys, signature_path
from model_store.versions import VersionFolder, digest_of, one_of
from services.core.errors import (
    IntegrityFailure,
    InvalidManifest,
    ModelError,
    ModelExists,
    ModelNotFound,
    TooLarge,
)
from services.core.versions import of_version

MANIFEST_SUFFIX = ".json"


class Record(Signed, Protocol):
    """A small file that names others by their digests."""

    def stored_files(self) -> Sequence[StoredFile]:
        """The files that it names."""
        ...

    def model_dump_json(self, *, indent: int | None = ..., exclude_defaults: bool = ...) -> str:
        """Itself as text."""
        ...


R = TypeVar("R", bound=Record)


class UserStore(Generic[R]):
    """Writes take the store's lock and are atomic; reads need no lock."""

    origin = "user"

    def __init__(
        self,
        root: Path,
        limits: StoreLimits,
        read: Callable[[Path], R],
        *,
        noun: str = "model",
        trust: TrustedKeys | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """Keep records below ``root``, which is made on the first write.

        Args:
            root: the folder.
            limits: on files.
            read: reads a record.
            noun: what a sentence calls one.
            trust: who must have signed a record for it to be read; nobody need by default.
            mirror: of which ``root`` is a folder, where the store is remote.
        """
        self._mirror = mirror
        self.root = root
        self._limits = limits
        self._noun = noun
        self._blobs = root / "blobs"
        self._models = root / "models"
        self._cache: ReadCache[R] = ReadCache(read)
        self._trust = trust
        self._trusted: dict[str, R] = {}
        self._versions: VersionFolder[R] = VersionFolder(root, read)
        self._digests: dict[str, tuple[R, str]] = {}

    def ids(self) -> list[str]:
        """Names of the stored models."""
        if not self._models.is_dir():
            return []
        names = [p.name.removesuffix(MANIFEST_SUFFIX) for p in self._models.glob("*.json")]
        return [name for name in names if is_model_id(name)]

    def holds(self, model_id: str) -> bool:
        """Whether a model of that name is stored."""
        return self._path(model_id).exists()

    def manifest(self, model_id: str) -> R:
        """The stored manifest of ``model_id``, which `ids` has named.

        Raises:
            InvalidManifest: it is unreadable, or another's.
            UntrustedModel: nobody who is trusted has signed it as it is.
        """
        manifest = self._cache.get(self._path(model_id))
        if manifest.id != model_id:
            raise InvalidManifest(f"'{model_id}.json' is a manifest of '{manifest.id}'")
        self._check_trust(model_id, manifest)
        return manifest

    def served(self, model_id: str) -> str:
        """The digest of the version that is served; raises as `manifest` does."""
        manifest = self.manifest(model_id)
        known = self._digests.get(model_id)
        if known is None or known[0] is not manifest:
            known = self._digests[model_id] = manifest, digest_of(manifest)
        return known[1]

    def versions(self, model_id: str) -> list[str]:
        """The digests of all versions, that which is served first; raises as `manifest` does."""
        served = self.served(model_id)
        return [served, *sorted(set(self._versions.digests(model_id)) - {served})]

    def version(self, model_id: str, prefix: str) -> R:
        """The version whose digest begins so.

        Raises:
            ModelNotFound: there is none, or no such model.
            InvalidParameter: there are several.
            UntrustedModel: nobody who is trusted has signed it as it is.
        """
        served = self.served(model_id)
        digest = one_of(model_id, prefix, [served, *self._versions.digests(model_id)])
        if digest == served:
            return self.manifest(model_id)
        manifest = self._versions.manifest(model_id, digest)
        self._check_trust(of_version(model_id, digest), manifest)
        return manifest

    def read(self, manifest: R, file: StoredFile) -> bytes:  # noqa: ARG002 - by content
        """A file's bytes, not yet verified."""
        if file.sha256 is None:
            raise IntegrityFailure(f"'{file.file}' was stored without a digest")
        self._fetch(file.sha256)
        try:
            return read_plain(self._blobs, file.sha256, self._limits.file_bytes)
        except ModelError as error:
            raise type(error)(error.message.replace(file.sha256, file.file)) from error

    def plain(self, manifest: R, file: StoredFile) -> PlainFile:  # noqa: ARG002 - by content
        """A file that is to be streamed, not yet verified."""
        if file.sha256 is None:
            raise IntegrityFailure(f"'{file.file}' was stored without a digest")
        self._fetch(file.sha256)
        return PlainFile(self._blobs, file.sha256, self._limits.weight_bytes)

    def size(self, manifest: R) -> int:
        """Bytes of the files that are there."""
        digests = {file.sha256 for file in manifest.stored_files() if file.sha256}
        if self._mirror is not None:
            sizes = self._mirror.sizes(self._blobs)
            return sum(sizes.get(sha256, 0) for sha256 in digests)
        paths = {self._blobs / sha256 for sha256 in digests}
        return sum(path.stat().st_size for path in paths if path.is_file())

    def put(self, manifest: R, contents: Mapping[str, bytes | PlainFile]) -> None:
        """Store a model whose every file names its digest.

        Args:
            manifest: what to store.
            contents: the bytes of each file it names, or where they lie.

        Raises:
            ModelExists: the name is taken; nothing was changed.
            IntegrityFailure: a file's bytes are absent or not those of the digest.
        """
        _check_contents(manifest, contents)
        with self.writing():
            if self._path(manifest.id).exists():
                raise ModelExists(
                    f"the name '{manifest.id}' is taken by a stored {self._noun}; remove it "
                    "first, or add this one by another name"
                )
            for file in manifest.stored_files():
                self._put_blob(str(file.sha256), contents[file.file])
            self._write(manifest)

    def put_version(self, manifest: R, contents: Mapping[str, bytes | PlainFile]) -> str:
        """Store another version of a model, which is not served before `serve` says so.

        Returns:
            Its digest.

        Raises:
            ModelNotFound: there is no such model.
            IntegrityFailure: a file's bytes are absent or not those of the digest.
        """
        _check_contents(manifest, contents)
        with self.writing():
            if not self.holds(manifest.id):
                raise ModelNotFound(f"no {self._noun} '{manifest.id}' is stored", param="model")
            for file in manifest.stored_files():
                self._put_blob(str(file.sha256), contents[file.file])
            return self._versions.keep(manifest.id, manifest)

    def serve(self, model_id: str, digest: str) -> None:
        """Serve another version of a model; the one that was served until now is kept.

        Raises:
            ModelNotFound: there is no such version; else as `version`.
        """
        with self.writing():
            wanted, before = self.version(model_id, digest), self.manifest(model_id)
            if wanted is before:
                return
            former = self._versions.keep(model_id, before)
            signature = signature_path(self.root, model_id)
            if signature.exists():
                kept = signature_path(self.root, of_version(model_id, former))
                write_atomic(kept, signature.read_bytes())
            self._versions.keep(model_id, wanted)
            self._write(wanted)

    def remove_version(self, model_id: str, digest: str) -> None:
        """Forget a version that is not served, and delete the files that no other names.

        Raises:
            ModelNotFound: there is no such version.
            ModelError: it is the one that is served.
        """
        with self.writing():
            wanted = digest_of(self.version(model_id, digest))
            if wanted == self.served(model_id):
                raise ModelError(
                    f"version {wanted[:12]}... of '{model_id}' is the one that is served; serve "
                    "another first, or remove the model"
                )
            self._forget_version(model_id, wanted)
            self._collect()
        self._collect_remote()

    def remove(self, model_id: str) -> None:
        """Forget a model with all its versions, and delete the files that no other model names.

        Raises:
            ModelNotFound: it is not stored here.
        """
        with self.writing():
            try:
                self._path(model_id).unlink()
            except FileNotFoundError as error:
                raise ModelNotFound(f"no {self._noun} '{model_id}' is stored") from error
            signature_path(self.root, model_id).unlink(missing_ok=True)
            for version in self._versions.digests(model_id):
                self._forget_version(model_id, version)
            self._collect()
        self._collect_remote()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Nobody else writes meanwhile; what was written is in a remote store after it.

        Raises:
            Unavailable: the store is remote and cannot be reached; nothing was changed.
        """
        remote = contextlib.nullcontext() if self._mirror is None else self._mirror.writing()
        with remote, locked(self.root / "lock"):
            yield

    def _fetch(self, sha256: str) -> None:
        if self._mirror is not None:
            self._mirror.fetch(self._blobs, sha256)

    def _check_trust(self, name: str, manifest: R) -> None:
        if self._trust is not None and self._trusted.get(name) is not manifest:
            self._trust.check(manifest, self.root, noun=self._noun)
            self._trusted[name] = manifest

    def _write(self, manifest: R) -> None:
        text = manifest.model_dump_json(indent=2, exclude_defaults=False)
        write_atomic(self._path(manifest.id), text.encode())

    def _forget_version(self, model_id: str, digest: str) -> None:
        self._versions.forget(model_id, digest)
        signature_path(self.root, of_version(model_id, digest)).unlink(missing_ok=True)

    def _path(self, model_id: str) -> Path:
        return self._models / f"{model_id}{MANIFEST_SUFFIX}"

    def _put_blob(self, sha256: str, data: bytes | PlainFile) -> None:
        try:
            whole = PlainFile(self._blobs, sha256, self._limits.weight_bytes).digest() == sha256
        except (ModelError, TooLarge):
            whole = False
        if whole:
            return
        if isinstance(data, bytes):
            write_atomic(self._blobs / sha256, data, mode=0o444)
            return
        with atomic_file(self._blobs / sha256, mode=0o444) as blob:
            if data.copy_to(blob) != sha256:
                raise IntegrityFailure(f"'{data.name}' changed while it was being stored")

    def _all(self) -> Iterator[R]:
        """Every manifest, whether or not it is trusted."""
        for model_id in self.ids():
            yield self._cache.get(self._path(model_id))
        for model_id in self._versions.names():
            for version in self._versions.digests(model_id):
                yield self._versions.manifest(model_id, version)

    def _used(self) -> set[str | None] | None:
        """The digests of all files that a manifest names; ``None`` while one is unreadable."""
        try:
            return {file.sha256 for record in self._all() for file in record.stored_files()}
        except (ModelError, ModelNotFound):
            return None

    def _collect_remote(self) -> None:
        used = None if self._mirror is None else self._used()
        if self._mirror is not None and used is not None:
            self._mirror.collect(self._blobs, {sha256 for sha256 in used if sha256})

    def _collect(self) -> None:
        """Delete blobs without a model; none while a manifest is unreadable."""
        used = self._used()
        if used is None:
            return
        for path in self._blobs.iterdir() if self._blobs.is_dir() else ():
            stale = path.name.startswith(TEMPORARY_PREFIX)
            if stale or (re.fullmatch("[0-9a-f]{64}", path.name) and path.name not in used):
                path.unlink()


def _check_contents(record: Record, contents: Mapping[str, bytes | PlainFile]) -> None:
    for file in record.stored_files():
        if file.file not in contents or _digest(contents[file.file]) != file.sha256:
            raise IntegrityFailure(f"'{file.file}' is not the file that the manifest names")


def _digest(content: bytes | PlainFile) -> str:
    return digest(content) if isinstance(content, bytes) else content.digest()
