"""Models as components of a bill of materials (CycloneDX 1.6, ECMA-424)."""

from __future__ import annotations

from typing import Any

from model_store.manifest import Manifest
from model_store.versions import digest_of

Json = dict[str, Any]


def with_models(document: Json, manifests: list[Manifest]) -> Json:
    """A bill of materials that also lists models, on which what it is of depends.

    Args:
        document: CycloneDX as JSON; left as it is.
        manifests: of the models.
    """
    components = [model_component(manifest) for manifest in manifests]
    references = [component["bom-ref"] for component in components]
    root = document.get("metadata", {}).get("component", {}).get("bom-ref")
    dependencies = [
        {**one, "dependsOn": [*one.get("dependsOn", []), *references]}
        if one["ref"] == root
        else one
        for one in document.get("dependencies", [])
    ]
    return {
        **document,
        "components": [*document.get("components", []), *components],
        "dependencies": [*dependencies, *({"ref": reference} for reference in references)],
    }


def model_component(manifest: Manifest) -> Json:
    """One model with its files; its version is the digest that requests may name it by."""
    version = digest_of(manifest)
    reference = f"model:{manifest.id}@{version[:16]}"
    files = {file.file: file.sha256 for file in manifest.stored_files()}
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": manifest.id,
        "version": version,
        "description": manifest.description,
        "licenses": [{"expression": manifest.license}],
        "modelCard": {"modelParameters": {"architectureFamily": manifest.family}},
        "components": [
            {
                "type": "file",
                "bom-ref": f"{reference}/{name}",
                "name": name,
                **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}),
            }
            for name, digest in sorted(files.items())
        ],
    }
