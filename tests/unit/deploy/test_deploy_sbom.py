"""The bill of materials lists every model with its files, as CycloneDX's schema has it."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest

from deploy.sbom.__main__ import TOOL, validate
from deploy.sbom.models import model_component, with_models
from model_store.catalog_folder import CatalogFolder
from model_store.limits import StoreLimits
from model_store.store import CATALOG
from model_store.versions import digest_of

SERVICE = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {"component": {"type": "application", "bom-ref": "root", "name": "atelier"}},
    "components": [{"type": "library", "bom-ref": "torch", "name": "torch"}],
    "dependencies": [{"ref": "root", "dependsOn": ["torch"]}, {"ref": "torch"}],
}
CATALOG_MODELS = CatalogFolder(CATALOG, StoreLimits())


def test_a_models_files_are_listed_with_what_they_hash_to() -> None:
    manifest = CATALOG_MODELS.manifest("shapes-cgan")
    found = model_component(manifest)
    assert found["type"] == "machine-learning-model"
    assert found["version"] == digest_of(manifest)
    files = {file["name"]: file["hashes"][0]["content"] for file in found["components"]}
    assert {"generator.onnx", "generator.safetensors", "card.md"} <= files.keys()
    for name, digest in files.items():
        data = (CATALOG / "shapes-cgan" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest


def test_the_service_depends_on_its_packages_and_on_every_model() -> None:
    manifests = [CATALOG_MODELS.manifest(name) for name in ("shapes-cgan", "shapes-vae")]
    found = with_models(SERVICE, manifests)
    references = [model_component(manifest)["bom-ref"] for manifest in manifests]
    assert found["dependencies"][0] == {"ref": "root", "dependsOn": ["torch", *references]}
    named = {one["bom-ref"] for one in found["components"]}
    assert named == {"torch", *references}
    assert SERVICE["dependencies"][0]["dependsOn"] == ["torch"]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOL / "made").is_file(), reason="`make sbom` installs the validator")
def test_every_model_of_the_catalog_fits_the_schema() -> None:
    tool = TOOL / "bin" / "python"
    found = with_models(SERVICE, [CATALOG_MODELS.manifest(name) for name in CATALOG_MODELS.ids()])
    validate(tool, json.dumps(found))
    found["components"][-1]["flavour"] = "sweet"
    with pytest.raises(subprocess.CalledProcessError):
        validate(tool, json.dumps(found))
