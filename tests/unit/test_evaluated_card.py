"""Cards that are generated from what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from model_store.evaluation.suite.measured import (
    Data,
    Evaluation,
    Network,
    measurement,
    weights_of,
)
from model_store.export.evaluated_card import (
    CARD,
    EVALUATION,
    evaluated,
    metadata_of,
    write_evaluation,
)
from model_store.export.package import CATALOG
from model_store.manifest import read_manifest
from model_store.store import Store
from services.core.errors import InvalidManifest

MODEL = "digits-gaussian"
MEASURED = sorted(folder.parent.name for folder in CATALOG.glob(f"*/{EVALUATION}"))


def weights(folder: Path) -> dict[str, str]:
    return weights_of(read_manifest(folder / "manifest.json"))


def some_evaluation(recall: float = 0.5, raw: float = 0.9, **more: object) -> Evaluation:
    fields = {
        "model": MODEL,
        "family": "density",
        "weights": {},
        "data": Data(name="digits", split="test", images=360),
        "features": Network(name="domain_classifier"),
        "seed": 0,
        "samples": 360,
        "measurements": [
            measurement("fid_domain_classifier", 12.3456789, images=360, better="lower"),
            measurement("recall_domain_classifier", recall, images=360, better="higher"),
            measurement("anomaly_auroc_x_likelihood", raw, images=720, better="higher"),
        ],
    }
    return Evaluation.model_validate({**fields, **more})


def a_card() -> str:
    return (CATALOG / MODEL / CARD).read_text(encoding="utf-8")


def without_evaluation(card: str) -> str:
    """What people wrote: the card without its metadata and its generated section."""
    body = card.split("---\n", 2)[2]
    before, _, rest = body.partition("## Evaluation\n")
    after = rest.partition("## ")
    return before + (f"## {after[2]}" if after[1] else "")


def test_hugging_face_reads_the_results_off_the_metadata() -> None:
    data: Any = ModelCard(evaluated(a_card(), some_evaluation())).data
    results = data.eval_results
    assert data.model_name == MODEL
    assert results[0].metric_type == "fid_domain_classifier"
    assert results[0].metric_value == 12.3457
    assert results[0].dataset_type == "scikit-learn/load_digits"
    assert results[0].dataset_split == "test"
    assert results[0].task_type == "unconditional-image-generation"


def test_what_people_wrote_stays_and_a_second_time_changes_nothing() -> None:
    first = evaluated(a_card(), some_evaluation())
    assert without_evaluation(first) == without_evaluation(a_card())
    assert evaluated(first, some_evaluation()) == first
    assert first.count("## Evaluation") == 1
    other = evaluated(first, some_evaluation(recall=0.7))
    assert "0.7 |" in other
    assert without_evaluation(other) == without_evaluation(first)


def test_a_card_without_sections_or_metadata_gets_both() -> None:
    found = evaluated("# Mine\n\nMy words.\n", some_evaluation())
    assert "My words.\n\n## Evaluation" in found
    assert metadata_of(found)["model-index"][0]["name"] == MODEL
    with pytest.raises(InvalidManifest, match="no mapping"):
        metadata_of("---\n- a\n---\ntext\n")


def test_collapse_and_worse_than_chance_are_called_by_their_names() -> None:
    poor = evaluated(a_card(), some_evaluation(recall=0.1, raw=0.3))
    assert "Mode collapse" in poor
    assert "below chance" in poor
    good = evaluated(a_card(), some_evaluation())
    assert "Mode collapse" not in good
    assert "below chance" not in good


def test_an_evaluation_is_written_beside_the_weights_that_it_is_of(tmp_path: Path) -> None:
    folder = tmp_path / MODEL
    shutil.copytree(CATALOG / MODEL, folder)
    found = some_evaluation(weights=weights(folder), corrected_reference=[-1.0, 0.0, 1.0])
    write_evaluation(folder, found)
    assert json.loads((folder / EVALUATION).read_text())["schema_version"] == 1
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.options["reference_corrected_bits_per_dim"] == [-1.0, 0.0, 1.0]
    assert not Store(tmp_path / "store", catalogs=[tmp_path]).verify(MODEL)
    for wrong in ({"density.safetensors": "0" * 64}, {"other.onnx": "0" * 64}):
        with pytest.raises(InvalidManifest, match="other weights"):
            write_evaluation(folder, some_evaluation(weights=wrong))


@pytest.mark.parametrize("name", MEASURED)
def test_the_catalogs_evaluations_are_of_the_weights_that_are_there(name: str) -> None:
    folder = CATALOG / name
    found = Evaluation.model_validate_json((folder / EVALUATION).read_text(encoding="utf-8"))
    assert found.weights == weights(folder)
    card = (folder / CARD).read_text(encoding="utf-8")
    assert evaluated(card, found) == card
    data: Any = ModelCard(card).data
    assert len(data.eval_results) == len(found.measurements)
