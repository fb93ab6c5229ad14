"""Write a model's catalog folder: networks, manifest, card and sample sheet."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from model_store.atomic_files import write_atomic
from model_store.evaluation.sheets import save_sheet
from model_store.export.card import Card
from model_store.export.network import NetworkExport, export
from model_store.manifest import (
    Manifest,
    NetworkFiles,
    OnnxFile,
    SafetensorsFile,
    StoredFile,
    read_manifest,
)

CATALOG = Path(__file__).parents[1] / "catalog"
MANIFEST = "manifest.json"
LICENSE = "Apache-2.0"
OWNER = "atelier"


@dataclass(frozen=True, slots=True)
class Package:
    """A trained and measured model, ready to be written."""

    id: str
    family: str
    description: str
    networks: Sequence[NetworkExport]
    options: Mapping[str, Any]
    metrics: Mapping[str, Any]
    card: Card
    sheet: Tensor
    sheet_columns: int
    sheet_zoom: int = 2
    resolution: tuple[int, int] = (32, 32)
    channels: Literal[1, 3] = 3
    pixel_range: tuple[float, float] = (-1.0, 1.0)


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish(package: Package, catalog: Path = CATALOG) -> Path:
    """Export every network through the parity gate, then put the folder in place as one move.

    Returns:
        The model's folder in the catalog.

    Raises:
        ParityError: an ONNX export does not compute what the torch module computes.
    """
    catalog.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=catalog) as partial:
        folder = Path(partial) / package.id
        folder.mkdir()
        fill(package, folder)
        for file in folder.iterdir():
            file.chmod(0o644)
        target = catalog / package.id
        put_in_place(folder, target)
    return target


def put_in_place(folder: Path, target: Path) -> None:
    """Move a whole folder to where an older one may be, which goes."""
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


def fill(package: Package, folder: Path) -> None:
    """Write every file of the model into ``folder``."""
    parity = max(export(network, folder) for network in package.networks)
    metrics = dict(package.metrics)
    if not all(network.closed_form for network in package.networks):
        metrics["onnx_parity_max_difference"] = float(f"{parity:.3g}")
    low, high = package.pixel_range
    save_sheet(
        package.sheet,
        folder / "samples.png",
        columns=package.sheet_columns,
        low=low,
        high=high,
        zoom=package.sheet_zoom,
    )
    text = package.card.render(model_license=LICENSE, metrics=metrics, sheet="samples.png")
    (folder / "card.md").write_text(text, encoding="utf-8")
    write_manifest(describe(package, metrics, folder), folder)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Put the manifest into the model's folder, as one move."""
    text = manifest.model_dump_json(indent=1, exclude_none=True) + "\n"
    write_atomic(folder / MANIFEST, text.encode())


def add_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Set some of the options of an exported model, and leave everything else as it is.

    Raises:
        InvalidManifest: the folder's manifest cannot be read.
    """
    manifest = read_manifest(folder / MANIFEST)
    changed = manifest.model_copy(update={"options": {**manifest.options, **options}})
    write_manifest(changed, folder)


def describe(package: Package, metrics: Mapping[str, Any], folder: Path) -> Manifest:
    """The manifest of what lies in ``folder``."""
    stored = {"card": "card.md", "sheet": "samples.png"}
    return Manifest(
        id=package.id,
        family=package.family,
        description=package.description,
        license=LICENSE,
        owned_by=OWNER,
        created=datetime.now(UTC).replace(microsecond=0),
        resolution=package.resolution,
        channels=package.channels,
        pixel_range=package.pixel_range,
        networks={network.name: files(network, folder) for network in package.networks},
        options=dict(package.options),
        files={
            name: StoredFile(file=file, sha256=digest(folder / file))
            for name, file in stored.items()
        },
        metrics=dict(metrics),
    )


def files(network: NetworkExport, folder: Path) -> NetworkFiles:
    """A network's files with their digests."""
    onnx = folder / network.onnx_file
    shapes = {name: list(spec.shape) for name, spec in network.inputs.items()}
    return NetworkFiles(
        onnx=None if network.closed_form else OnnxFile(file=onnx.name, sha256=digest(onnx)),
        safetensors=SafetensorsFile(
            file=network.safetensors_file,
            sha256=digest(folder / network.safetensors_file),
            architecture=network.architecture,
            config=dict(network.config),
            shapes=shapes if network.closed_form else {},
        ),
    )
