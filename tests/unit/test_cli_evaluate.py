"""``atelier evaluate``, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli import app


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_STORE", str(tmp_path / "store"))


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.mark.slow
def test_a_built_in_model_is_measured_against_what_its_card_names(tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "found.json"
    shown = evaluate("digits-gaussian", "--samples", 100, "--seed", 2, "--json", out)
    assert shown.exit_code == 0, shown.stderr
    assert "fid_domain_classifier" in shown.stdout
    found = json.loads(out.read_text())
    assert (found["schema_version"], found["data"]["name"], found["seed"]) == (1, "digits", 2)
    names = {row["name"]: row["value"] for row in found["measurements"]}
    assert {"kid_domain_classifier", "is_domain_classifier", "bits_per_dim"} <= names.keys()
    assert names["anomaly_auroc_shapes_8x8_grey_corrected_likelihood"] >= 0.95


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-model"], "no model"),
        (["digits-gaussian", "--against", "nowhere"], "no folder"),
        (["digits-gaussian", "--features", "absent.onnx"], "no file"),
    ],
)
def test_a_refusal_is_one_clear_line(arguments: list[str], words: str) -> None:
    result = evaluate(*arguments)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert words in lines[0]
