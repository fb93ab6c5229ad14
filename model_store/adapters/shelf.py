"""The user's adapters: kept, found, verified and removed beside the user's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.adapters.manifest import AdapterManifest, read_adapter
from model_store.limits import StoreLimits
from model_store.manifest import StoredFile, is_model_id
from model_store.mirror import Mirror
from model_store.plain_files import digest
from model_store.signing import TrustedKeys
from model_store.user_store import UserStore
from services.core.adapters import AdapterInfo
from services.core.errors import AtelierError, IntegrityFailure, ModelNotFound
from services.core.validation import near

NOUN = "adapter"
FOLDER = "adapters"
"""Below the root of the user's store."""


@dataclass(frozen=True, slots=True)
class AdapterProblem:
    """A file that is not what was stored, and how it differs."""

    file: str
    problem: str


class AdapterShelf:
    """Every call looks at the folder as it is: what another process adds is there at once."""

    def __init__(
        self,
        root: Path,
        limits: StoreLimits,
        trust: TrustedKeys | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """Keep adapters in a folder of their own below the store's ``root``."""
        self.root = root / FOLDER
        self._kept = UserStore(
            self.root, limits, read_adapter, noun=NOUN, trust=trust, mirror=mirror
        )

    def ids(self) -> list[str]:
        """Every adapter's name, sorted."""
        return sorted(self._kept.ids())

    def holds(self, name: str) -> bool:
        """Whether there is an adapter of that name."""
        return is_model_id(name) and self._kept.holds(name)

    def get(self, name: str) -> AdapterManifest:
        """What is kept of one.

        Raises:
            ModelNotFound: there is none of that name; the message offers near names.
            InvalidManifest: it is there, and unreadable.
        """
        if not self.holds(name):
            raise ModelNotFound(f"there is no adapter '{name[:64]}'{self.offers(name)}")
        return self._kept.manifest(name)

    def info(self, name: str) -> AdapterInfo:
        """What is said of one; raises as `get` does."""
        manifest = self.get(name)
        return manifest.info(self._kept.size(manifest))

    def listed(self) -> Sequence[AdapterInfo]:
        """All that can be read, sorted by name."""
        return [manifest.info(self._kept.size(manifest)) for manifest in self.manifests()]

    def manifests(self, base: str | None = None) -> list[AdapterManifest]:
        """All that can be read, or those of one model, sorted by name."""
        found = []
        for name in self.ids():
            try:
                manifest = self._kept.manifest(name)
            except (AtelierError, OSError):  # unreadable, or removed this moment
                continue
            if base in (None, manifest.base):
                found.append(manifest)
        return found

    def size(self, manifest: AdapterManifest) -> int:
        """Bytes of its files that are there."""
        return self._kept.size(manifest)

    def offers(self, name: str, base: str | None = None) -> str:
        """The end of a sentence that offers near names, of one model's adapters or of all."""
        known = [manifest.id for manifest in self.manifests(base)]
        close = near(name, known) or known[:3]
        if not close:
            return "; none is registered" + (f" for '{base}'" if base else "")
        return f"; did you mean {' or '.join(close)}?"

    def read(self, manifest: AdapterManifest, file: StoredFile) -> bytes:
        """The verified bytes of one of its files.

        Raises:
            IntegrityFailure: the file is missing or is not the one that was stored.
            UnsafeModel: it is a link or no regular file.
        """
        data = self._kept.read(manifest, file)
        found = digest(data)
        if found != file.sha256:
            raise IntegrityFailure(
                f"'{file.file}' of adapter '{manifest.id}' is not the file that was stored: its "
                f"SHA-256 is {found[:16]}..., {str(file.sha256)[:16]}... was stored; it was not "
                "opened"
            )
        return data

    def verify(self, name: str) -> Sequence[AdapterProblem]:
        """Read every file of an adapter again; what is wrong with which."""
        manifest, problems = self.get(name), []
        for file in manifest.stored_files():
            try:
                self.read(manifest, file)
            except AtelierError as error:
                problems.append(AdapterProblem(file.file, error.message))
        return problems

    def put(self, manifest: AdapterManifest, contents: Mapping[str, bytes]) -> None:
        """Store an adapter that has been tried.

        Raises:
            ModelExists: an adapter of that name is stored.
            IntegrityFailure: a file's bytes are not those of its digest.
        """
        self._kept.put(manifest, contents)

    def remove(self, name: str) -> None:
        """Forget an adapter and delete its files.

        Raises:
            ModelNotFound: there is none of that name.
        """
        if not self.holds(name):
            raise ModelNotFound(f"there is no adapter '{name[:64]}'{self.offers(name)}")
        self._kept.remove(name)
