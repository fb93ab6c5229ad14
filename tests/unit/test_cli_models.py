"""``atelier models`` says what happened, in one sentence when it is bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.models import models
from tests.unit.tiny_networks import write_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(models, [*arguments], env={"ATELIER_STORE": str(root)})


def fails_in_one_sentence(result: Result, *words: str) -> None:
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_a_model_comes_and_goes(root: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan", metrics={"fid": 3.5})
    added = run(root, "add", str(folder), "--name", "faces")
    assert added.exit_code == 0, added.output
    assert "pixel range" in added.output
    listed = json.loads(run(root, "list", "--json").stdout)
    mine = next(m for m in listed if m["id"] == "faces")
    assert (mine["family"], mine["origin"], mine["resolution"]) == ("gan", "user", [4, 6])
    assert "faces" in run(root, "list").output
    shown = run(root, "show", "faces").output
    assert "3.5" in shown
    assert "generator.onnx" in shown
    manifest = json.loads(run(root, "show", "faces", "--json").stdout)["manifest"]
    assert len(manifest["networks"]["generator"]["onnx"]["sha256"]) == 64
    assert run(root, "verify").exit_code == 0
    assert run(root, "remove", "faces").exit_code == 0
    fails_in_one_sentence(run(root, "show", "faces"), "no model 'faces'")


def test_the_store_option_goes_before_the_environment(root: Path, tmp_path: Path) -> None:
    folder, other = write_model(tmp_path / "gan"), tmp_path / "other"
    assert run(root, "add", str(folder), "--store", str(other)).exit_code == 0
    assert (other / "models" / "my-gan.json").is_file()
    assert not root.exists()


def test_verify_exits_with_one_on_a_flipped_byte(root: Path, tmp_path: Path) -> None:
    run(root, "add", str(write_model(tmp_path / "gan")))
    blob = next((root / "blobs").iterdir())
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    result = run(root, "verify", "my-gan")
    assert result.exit_code == 1
    assert "generator.onnx" in result.output


def test_errors_are_one_sentence(root: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    assert run(root, "add", str(folder)).exit_code == 0
    fails_in_one_sentence(run(root, "add", str(folder)), "my-gan", "--name")
    fails_in_one_sentence(run(root, "add", str(folder), "--name", "../x"), "no model name")
    fails_in_one_sentence(run(root, "show", "my-gam"), "did you mean", "my-gan")
    (folder / "evil.py").write_text("")
    fails_in_one_sentence(run(root, "add", str(folder), "--name", "b"), "evil.py")
    fails_in_one_sentence(run(root, "verify", "../../etc"), "no model")
