"""Export the shapes judge for policies: ``python -m model_store.recipes.shapes_classifier_export``.

Policies may use any classifier of the store. This one is built in; it stands beside the catalog
and not in it, since it makes no images and is not served.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from model_store.evaluation import judge
from model_store.export.network import Input, NetworkExport, export
from model_store.export.package import LICENSE, OWNER, digest, write_manifest
from model_store.manifest import Manifest, NetworkFiles, OnnxFile
from model_store.recipes import shapes
from model_store.store import CLASSIFIERS

NAME = "shapes-classifier"
NETWORK = "classifier"
SIDE = 32


def export_judge(folder: Path) -> Manifest:
    """Write the classifier's graph and manifest into a folder, through the parity gate.

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
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        parity = export(network, Path(scratch))
        shutil.copyfile(Path(scratch) / network.onnx_file, folder / network.onnx_file)
    (folder / network.onnx_file).chmod(0o644)
    measured = json.loads(judge.WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    manifest = Manifest(
        id=NAME,
        family="classifier",
        description="Reads the shape, colours, size and place of a captioned shape; for policies.",
        license=LICENSE,
        owned_by=OWNER,
        created=datetime.now(UTC).replace(microsecond=0),
        resolution=(SIDE, SIDE),
        networks={
            NETWORK: NetworkFiles(
                onnx=OnnxFile(file=network.onnx_file, sha256=digest(folder / network.onnx_file))
            )
        },
        options={"labels": {name: list(values) for name, values in shapes.FACTORS.items()}},
        metrics={**measured, "onnx_parity_max_difference": float(f"{parity:.3g}")},
    )
    write_manifest(manifest, folder)
    return manifest


if __name__ == "__main__":
    export_judge(CLASSIFIERS / NAME)
