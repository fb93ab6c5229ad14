"""``make sbom``: every package of an environment and every model of the catalog, as CycloneDX.

``python -m deploy.sbom [--python .venv/bin/python] [--out out/sbom.cdx.json]``. The tool that reads
the environment has one of its own, ``.sbom/``; its validator also judges the whole document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

from deploy.sbom.models import with_models
from model_store.catalog_folder import CatalogFolder
from model_store.limits import StoreLimits
from model_store.store import CATALOG

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / ".sbom"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VERSION = "1.6"
VALIDATE = f"""
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
found = JsonStrictValidator(SchemaVersion.from_version("{VERSION}")).validate_str(sys.stdin.read())
sys.exit(None if found is None else str(found))
"""


def install() -> Path:
    """The tool's interpreter; its environment is made where it is missing or not up to date.

    Raises:
        subprocess.CalledProcessError: pip failed, and has said why.
    """
    python, made = TOOL / "bin" / "python", TOOL / "made"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not made.is_file() or made.read_text(encoding="utf-8") != wanted:
        venv.create(TOOL, clear=True, with_pip=True)
        command = [
            str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
            "-r", str(REQUIREMENTS),
        ]  # fmt: skip
        subprocess.run(command, check=True)  # noqa: S603 - pip, on a file of ours
        made.write_text(wanted, encoding="utf-8")
    return python


def packages(tool: Path, python: Path) -> str:
    """What an environment holds, as CycloneDX in JSON.

    Args:
        tool: the interpreter of the tool.
        python: that of the environment.
    """
    command = [
        str(tool), "-m", "cyclonedx_py", "environment", str(python),
        "--pyproject", str(ROOT / "pyproject.toml"),
        "--spec-version", VERSION, "--output-format", "JSON", "--output-reproducible",
    ]  # fmt: skip
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - our own tool


def validate(tool: Path, document: str) -> None:
    """Hold a document against CycloneDX's schema, which allows no unknown fields.

    Raises:
        subprocess.CalledProcessError: it does not fit; the validator has said where.
    """
    command = [str(tool), "-c", VALIDATE]
    subprocess.run(command, input=document, check=True, text=True)  # noqa: S603 - our own tool


def main() -> None:
    """Write the bill of materials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "sbom.cdx.json")
    options = parser.parse_args()
    tool = install()
    catalog = CatalogFolder(CATALOG, StoreLimits())
    manifests = [catalog.manifest(name) for name in sorted(catalog.ids())]
    found = with_models(json.loads(packages(tool, options.python)), manifests)
    text = json.dumps(found, indent=1) + "\n"
    validate(tool, text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    others = len(found["components"]) - len(manifests)
    print(f"{options.out}: {others} packages, {len(manifests)} models")


if __name__ == "__main__":
    main()
