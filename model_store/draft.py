"""What somebody wants to add, read from disk: a manifest and the bytes of each file, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from model_store.file_content import refuse_unsafe, scan_folder
from model_store.inspect_onnx import fold_external_data
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, StoredFile, find_manifest, is_model_id, read_manifest
from model_store.plain_files import PlainFile, digest, read_plain
from services.core.errors import IntegrityFailure, InvalidManifest, UnsafeModel
from services.core.validation import explain


@dataclass(slots=True)
class Draft:
    """A manifest with the bytes of its files, and notes on what was assumed.

    ``says_range`` is whether the manifest itself gave the pixel range; ``weights`` are files that
    are not held in memory.
    """

    manifest: Manifest
    contents: dict[str, bytes]
    says_range: bool
    notes: list[str] = field(default_factory=list)
    weights: dict[str, PlainFile] = field(default_factory=dict)

    def digest(self, file: str) -> str:
        """The SHA-256 of a file; raises what `PlainFile` does."""
        if file in self.weights:
            return self.weights[file].digest()
        return digest(self.contents[file])

    def change(self, **fields: object) -> None:
        """Replace fields of the manifest.

        Raises:
            InvalidManifest: the result would not be a manifest.
        """
        raw = self.manifest.model_dump(mode="json") | fields
        try:
            self.manifest = Manifest.model_validate(raw)
        except ValidationError as error:
            raise InvalidManifest(explain(error).message) from error


def read_folder(
    folder: Path, limits: StoreLimits, *, name: str | None, family: str | None
) -> Draft:
    """Read a folder with a manifest.

    Raises:
        UnsafeModel: it holds code, a pickle, an archive or a link.
        InvalidManifest: the manifest is missing or wrong.
        IntegrityFailure: a file is missing, or is not the one whose digest is given.
        TooLarge: a file, or all of them, are over a limit.
    """
    scan_folder(folder, limits)
    manifest = read_manifest(find_manifest(folder))
    draft = Draft(manifest, {}, "pixel_range" in manifest.model_fields_set)
    changes = {key: value for key, value in (("id", name), ("family", family)) if value}
    if changes:
        draft.change(**changes)
    left = limits.model_bytes
    for file in manifest.stored_files():
        if file.file in draft.contents:
            continue
        draft.contents[file.file] = _read(folder, file, min(left, limits.file_bytes))
        left -= len(draft.contents[file.file])
    _fold(folder, draft, limits)
    return draft


def read_onnx_file(path: Path, limits: StoreLimits) -> bytes:
    """Read a single ONNX file, with the weights that may lie beside it.

    Raises:
        UnsafeModel: it is a link, a pickle or an archive.
        InvalidNetwork: it is no ONNX file.
        IntegrityFailure: its weights are missing.
        TooLarge: it is over a limit.
    """
    data = read_plain(path.parent, path.name, limits.file_bytes)
    return fold_external_data(
        path.name, data, lambda name: read_plain(path.parent, name, limits.file_bytes)
    )


def model_id_from(path: Path) -> str:
    """A model's name from a file's.

    Raises:
        InvalidManifest: nothing of the name can be used.
    """
    text = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem.lower()).strip("-")
    if not is_model_id(text[:64].strip("-")):
        raise InvalidManifest(f"'{path.name}' gives no usable name; choose one with --name")
    return text[:64].strip("-")


def _read(folder: Path, file: StoredFile, limit: int) -> bytes:
    data = read_plain(folder, file.file, limit)
    refuse_unsafe(file.file, data)
    found = digest(data)
    if file.sha256 is not None and found != file.sha256:
        raise IntegrityFailure(
            f"'{file.file}' is not the file that the manifest names: its SHA-256 is {found}, the "
            f"manifest says {file.sha256}"
        )
    return data


def _fold(folder: Path, draft: Draft, limits: StoreLimits) -> None:
    """Make each ONNX file whole: exporters put weights into a second file."""
    left = limits.model_bytes - sum(len(data) for data in draft.contents.values())

    def beside(name: str) -> bytes:
        nonlocal left
        data = read_plain(folder, name, min(left, limits.file_bytes))
        left -= len(data)
        return data

    for network in draft.manifest.networks.values():
        if network.onnx is None:
            continue
        name = network.onnx.file
        whole = fold_external_data(name, draft.contents[name], beside)
        if whole is not draft.contents[name]:
            draft.contents[name] = whole
            draft.notes.append(f"folded the weights that lie beside '{name}' into it")


def refuse_odd_path(path: Path) -> None:
    """Refuse a path that is neither a folder nor an ONNX file.

    Raises:
        InvalidManifest: there is nothing there, or nothing that can be added.
        UnsafeModel: it is a link.
    """
    if path.is_symlink():
        raise UnsafeModel(f"'{path.name}' is a symbolic link; give the folder or file itself")
    if not path.exists():
        raise InvalidManifest(f"'{path.name}' does not exist; give a folder with a manifest")
