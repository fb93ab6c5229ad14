"""Export the shapes judge for policies: ``python -m model_store.recipes.shapes_classifier_export``.

Policies may use any classifier of the store. This one is built in; it stands beside the catalog
and not in it, since it makes no images and is not served.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from model_store.atomic_files import TEMPORARY_PREFIX
from model_store.evaluation import judge
from model_store.export.network import Input, NetworkExport, export
from model_store.export.package import LICENSE, OWNER, files, put_in_place, write_manifest
from model_store.manifest import Manifest
from model_store.recipes import shapes

NETWORK = "classifier"
SIDE = 32


def export_judge(folder: Path) -> Manifest:
    """Put a folder with the classifier's files and manifest in place, through the parity gate.

    Raises:
        ParityError: the graph does not compute what the torch module computes.
    """
    network = NetworkExport(
        name=NETWORK,
        architecture="factor_classifier",
        module=judge.judge(),
        inputs={"image": Input((3, SIDE, SIDE), "image")},
        config=judge.CONFIG,
    )
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as partial:
        new = Path(partial) / folder.name
        new.mkdir()
        manifest = describe(network, export(network, new), new)
        write_manifest(manifest, new)
        for file in new.iterdir():
            file.chmod(0o644)
        put_in_place(new, folder)
    return manifest


def describe(network: NetworkExport, parity: float, folder: Path) -> Manifest:
    """The manifest of the files in ``folder``, whose two exports differ by ``parity`` at most."""
    measured = json.loads(judge.METRICS.read_text(encoding="utf-8"))
    return Manifest(
        id=judge.NAME,
        family="classifier",
        description="Reads the shape, colours, size and place of a captioned shape; for policies.",
        license=LICENSE,
        owned_by=OWNER,
        created=datetime.now(UTC).replace(microsecond=0),
        resolution=(SIDE, SIDE),
        networks={NETWORK: files(network, folder)},
        options={"labels": {name: list(values) for name, values in shapes.FACTORS.items()}},
        metrics={**measured, "onnx_parity_max_difference": float(f"{parity:.3g}")},
    )


if __name__ == "__main__":
    export_judge(judge.WEIGHTS.parent)
