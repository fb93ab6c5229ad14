"""The client installs alone: into an empty environment, with httpx and pydantic only."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "services" / "client"

USE = """
import sys
from pathlib import Path

import atelier_client
from atelier_client import AsyncClient, Client, ConnectionFailed, Retries

try:
    Client("http://127.0.0.1:9", retries=Retries(most=0)).models()
except ConnectionFailed as error:
    print("refused:", error)
heavy = {"torch", "numpy", "ray", "fastapi", "services", "PIL"} & set(sys.modules)
assert not heavy, heavy
assert (Path(atelier_client.__file__).parent / "py.typed").is_file()
"""


@pytest.mark.slow
def test_it_installs_into_an_empty_environment_and_is_imported_alone(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", str(CLIENT)]
    subprocess.run(install, check=True, capture_output=True, timeout=280)
    used = subprocess.run(
        [str(python), "-c", USE], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert used.returncode == 0, used.stderr
    assert "refused:" in used.stdout
    listed = [str(python), "-m", "pip", "list", "--format=freeze"]
    found = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    names = {line.split("==")[0].lower() for line in found.splitlines()}
    assert {"atelier-client", "httpx", "pydantic"} <= names
    assert not names & {"torch", "numpy", "ray", "fastapi", "atelier"}
