"""What a user stored, content addressed: ``blobs/<sha256>`` and ``models/<id>.json``.

Models are kept so, and adapters in a folder of their own beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from model_store.atomic_files import TEMPORARY_PREFIX, atomic_file, locked, write_atomic
from model_store.limits import StoreLimits
from model_store.manifest import StoredFile, is_model_id
from model_store.plain_files import PlainFile, digest, read_plain
from model_store.read_cache import ReadCache
from model_store.signing import Signed, TrustedKeys, signature_path
from services.core.errors import (
    IntegrityFailure,
    InvalidManifest,
    ModelError,
    ModelExists,
    ModelNotFound,
    TooLarge,
)

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
    ) -> None:
        """Keep records below ``root``, which is made on the first write.

        Args:
            root: the folder.
            limits: on files.
            read: reads a record.
            noun: what a sentence calls one.
            trust: who must have signed a record for it to be read; nobody need by default.
        """
        self.root = root
        self._limits = limits
        self._noun = noun
        self._blobs = root / "blobs"
        self._models = root / "models"
        self._cache: ReadCache[R] = ReadCache(read)
        self._trust = trust
        self._trusted: dict[str, R] = {}

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
        if self._trust is not None and self._trusted.get(model_id) is not manifest:
            self._trust.check(manifest, self.root, noun=self._noun)
            self._trusted[model_id] = manifest
        return manifest

    def read(self, manifest: R, file: StoredFile) -> bytes:  # noqa: ARG002 - by content
        """A file's bytes, not yet verified."""
        if file.sha256 is None:
            raise IntegrityFailure(f"'{file.file}' was stored without a digest")
        try:
            return read_plain(self._blobs, file.sha256, self._limits.file_bytes)
        except ModelError as error:
            raise type(error)(error.message.replace(file.sha256, file.file)) from error

    def plain(self, manifest: R, file: StoredFile) -> PlainFile:  # noqa: ARG002 - by content
        """A file that is to be streamed, not yet verified."""
        if file.sha256 is None:
            raise IntegrityFailure(f"'{file.file}' was stored without a digest")
        return PlainFile(self._blobs, file.sha256, self._limits.weight_bytes)

    def size(self, manifest: R) -> int:
        """Bytes of the files that are there."""
        paths = {self._blobs / f.sha256 for f in manifest.stored_files() if f.sha256}
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
        for file in manifest.stored_files():
            if file.file not in contents or _digest(contents[file.file]) != file.sha256:
                raise IntegrityFailure(f"'{file.file}' is not the file that the manifest names")
        text = manifest.model_dump_json(indent=2, exclude_defaults=False)
        with locked(self.root / "lock"):
            if self._path(manifest.id).exists():
                raise ModelExists(
                    f"the name '{manifest.id}' is taken by a stored {self._noun}; remove it "
                    "first, or add this one by another name"
                )
            for file in manifest.stored_files():
                self._put_blob(str(file.sha256), contents[file.file])
            write_atomic(self._path(manifest.id), text.encode())

    def remove(self, model_id: str) -> None:
        """Forget a model and delete the files that no other model names.

        Raises:
            ModelNotFound: it is not stored here.
        """
        with locked(self.root / "lock"):
            try:
                self._path(model_id).unlink()
            except FileNotFoundError as error:
                raise ModelNotFound(f"no {self._noun} '{model_id}' is stored") from error
            signature_path(self.root, model_id).unlink(missing_ok=True)
            self._collect()

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

    def _collect(self) -> None:
        """Delete blobs without a model; none while a manifest is unreadable."""
        used = set()
        for model_id in self.ids():
            try:
                used |= {file.sha256 for file in self.manifest(model_id).stored_files()}
            except ModelError:
                return
        for path in self._blobs.iterdir() if self._blobs.is_dir() else ():
            stale = path.name.startswith(TEMPORARY_PREFIX)
            if stale or (re.fullmatch("[0-9a-f]{64}", path.name) and path.name not in used):
                path.unlink()


def _digest(content: bytes | PlainFile) -> str:
    return digest(content) if isinstance(content, bytes) else content.digest()
