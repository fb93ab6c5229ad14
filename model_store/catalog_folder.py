"""Models in a read-only folder: ``<id>/manifest.json`` with the files beside it."""

from __future__ import annotations

from pathlib import Path

from model_store.limits import StoreLimits
from model_store.manifest import (
    MANIFEST_NAMES,
    Manifest,
    StoredFile,
    find_manifest,
    is_model_id,
    read_manifest,
)
from model_store.plain_files import PlainFile, read_plain
from model_store.read_cache import ReadCache
from model_store.versions import digest_of, one_of
from services.core.errors import InvalidManifest


class CatalogFolder:
    """Exported models that come with the code, or that an operator mounts read-only."""

    origin = "catalog"

    def __init__(self, root: Path, limits: StoreLimits) -> None:
        """Look below ``root``, which need not exist."""
        self.root = root
        self._limits = limits
        self._cache: ReadCache[Manifest] = ReadCache(read_manifest)

    def ids(self) -> list[str]:
        """Names of the folders that hold a manifest."""
        if not self.root.is_dir():
            return []
        names = [path.name for path in self.root.iterdir() if is_model_id(path.name)]
        return [name for name in names if self.holds(name)]

    def holds(self, model_id: str) -> bool:
        """Whether there is a manifest in the folder of that name."""
        return any((self.root / model_id / name).is_file() for name in MANIFEST_NAMES)

    def manifest(self, model_id: str) -> Manifest:
        """The manifest in the folder ``model_id``, which `ids` has named."""
        manifest = self._cache.get(find_manifest(self.root / model_id))
        if manifest.id != model_id:
            raise InvalidManifest(f"folder '{model_id}' holds a manifest of '{manifest.id}'")
        return manifest

    def versions(self, model_id: str) -> list[str]:
        """The digest of the one version that there is."""
        return [digest_of(self.manifest(model_id))]

    def version(self, model_id: str, prefix: str) -> Manifest:
        """The one version, if its digest begins so.

        Raises:
            ModelNotFound: it does not.
        """
        one_of(model_id, prefix, self.versions(model_id))
        return self.manifest(model_id)

    def read(self, manifest: Manifest, file: StoredFile) -> bytes:
        """A file's bytes, not yet verified."""
        return read_plain(self.root / manifest.id, file.file, self._limits.file_bytes)

    def plain(self, manifest: Manifest, file: StoredFile) -> PlainFile:
        """A file that is to be streamed, not yet verified."""
        return PlainFile(self.root / manifest.id, file.file, self._limits.weight_bytes)

    def size(self, manifest: Manifest) -> int:
        """Bytes of the files that are there."""
        paths = {self.root / manifest.id / f.file for f in manifest.stored_files()}
        return sum(path.stat().st_size for path in paths if path.is_file())
