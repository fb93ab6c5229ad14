"""Share the weights of models that are exported already: ``python -m model_store.export.share``.

Every model of the catalog and of the built-in classifiers, or the folders that are named. A model
whose graphs share all they can is left as it is, so running it again changes nothing. Before a
folder is replaced, the graphs in it are run beside the ones they replace, and every output has to
be the same to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from model_store.atomic_files import TEMPORARY_PREFIX
from model_store.catalog_folder import CatalogFolder
from model_store.export.network import PARITY_BATCHES, ParityError
from model_store.export.package import CATALOG, put_in_place, write_manifest
from model_store.export.sharing import share_weights
from model_store.inspect_onnx import parse_onnx
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, NetworkFiles
from model_store.networks.export_loading import load_graph
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.hardware import Hardware
from model_store.networks.measurements import Measurements
from model_store.reading import Read, StoredFiles
from model_store.store import CLASSIFIERS, Store

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class _Changed:
    """A model's folder as it is to be: what of its files is new, by name, beside the manifest."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def reading(self, read: Read) -> Read:
        """Reads the new files, and the others as before."""
        return lambda file: self.files[file] if file in self.files else read(file)


def share_model(folder: Path) -> int:
    """Let a model's ONNX graphs take their weights from its safetensors files.

    Args:
        folder: with the manifest and its files; replaced as a whole, if anything changes.

    Returns:
        How many bytes smaller the folder's files are now.

    Raises:
        ParityError: a graph would no longer compute the same to the bit; nothing was changed.
        ModelError: the folder's files are not those of its manifest.
    """
    store = Store(folder / "nothing", catalogs=(folder.parent,))
    manifest = store.get(folder.name)
    read = StoredFiles(store, manifest.id)
    changed = _shared(manifest, read)
    if not changed.files:
        return 0
    for name, network in manifest.networks.items():
        if network.onnx is not None and network.onnx.file in changed.files:
            _refuse_difference(name, manifest, read, changed)
    before = _size(folder.parent, manifest)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as partial:
        new = Path(shutil.copytree(folder, Path(partial) / folder.name))
        for file, data in changed.files.items():
            (new / file).write_bytes(data)
        write_manifest(changed.manifest, new)
        put_in_place(new, folder)
    return before - _size(folder.parent, changed.manifest)


def _shared(manifest: Manifest, read: Read) -> _Changed:
    networks: dict[str, NetworkFiles] = {}
    files: dict[str, bytes] = {}
    for name, network in manifest.networks.items():
        networks[name] = network
        if network.onnx is None or network.safetensors is None:
            continue
        data = read(network.onnx.file)
        model = parse_onnx(network.onnx.file, data)
        weights = network.safetensors.file
        if not share_weights(model, read(weights), weights):
            continue
        smaller: bytes = model.SerializeToString()
        files[network.onnx.file] = smaller
        onnx = network.onnx.model_copy(update={"sha256": hashlib.sha256(smaller).hexdigest()})
        networks[name] = network.model_copy(update={"onnx": onnx})
    return _Changed(manifest.model_copy(update={"networks": networks}), files)


def _refuse_difference(name: str, manifest: Manifest, read: Read, changed: _Changed) -> None:
    """Raise `ParityError` unless a network's old and new graph agree to the bit."""
    old = _opened(manifest, name, read)
    new = _opened(changed.manifest, name, changed.reading(read))
    low, high = manifest.pixel_range
    for count in PARITY_BATCHES:
        rows = old.random_rows(count, seed=count)
        # A flow takes no value outside the range of pixels; every other network takes those too.
        inside = {
            key: low + (high - low) * value.sigmoid() if value.is_floating_point() else value
            for key, value in rows.items()
        }
        one, other = old(**inside), new(**inside)
        for output, values in one.items():
            if not torch.equal(values, other[output]):
                raise ParityError(
                    f"network '{name}' of '{manifest.id}': output '{output}' is another at batch "
                    f"{count} when the graph shares its weights; the model is left as it was"
                )


def _opened(manifest: Manifest, name: str, read: Read) -> ExportedNetwork:
    hardware = Hardware(CPU, 1, Measurements(None, CPU, 1), StoreLimits())
    return ExportedNetwork(*load_graph(manifest, name, read, hardware, "onnx"), CPU)


def _size(catalog: Path, manifest: Manifest) -> int:
    return CatalogFolder(catalog, StoreLimits()).size(manifest)


def folders_of(catalogs: Sequence[Path]) -> list[Path]:
    """The folder of every model in some catalogs, sorted within each."""
    limits = StoreLimits()
    return [
        catalog / name
        for catalog in catalogs
        for name in sorted(CatalogFolder(catalog, limits).ids())
    ]


def main() -> None:
    """Share what can be, and say how much it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="models; by default all built-in")
    given = [folder.resolve() for folder in parser.parse_args().folders]
    console = Console()
    for folder in given or folders_of((CATALOG, CLASSIFIERS)):
        saved = share_model(folder)
        said = f"{saved / 1000:,.0f} kB smaller" if saved else "nothing left to share"
        console.print(f"{folder.name}: {said}")


if __name__ == "__main__":
    main()
