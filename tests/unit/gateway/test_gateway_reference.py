"""What percentiles are read off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.core.model import ReferenceSet
from services.serving.wire import pack_model, unpack_model
from tests.unit.gateway.conftest import REFERENCE, model


def test_the_quantiles_are_those_of_the_model(client: Any) -> None:
    answer = client.get("/v1/models/digits-realnvp/reference")
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "digits-realnvp",
        "log_likelihoods": [-300.0, -200.0, -100.0],
        "dims": 64,
        "settings": {"samples": 4},
        "anomalous_below": -298.0,
    }


def test_a_model_without_a_reference_names_those_that_have_one(client: Any) -> None:
    answer = client.get("/v1/models/shapes-cgan/reference")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "unsupported_task"
    assert "digits-realnvp" in error["message"]


def test_an_unknown_model_is_not_found(client: Any) -> None:
    answer = client.get("/v1/models/digits-realnvq/reference")
    assert answer.status_code == 404
    assert "digits-realnvp" in answer.json()["error"]["message"]


def test_the_anomalous_are_the_lowest_percent() -> None:
    draws = np.sort(np.random.default_rng(0).normal(size=5000))
    quantiles = np.quantile(draws, np.linspace(0, 1, 101))
    found = ReferenceSet(tuple(quantiles)).anomalous_below
    assert found == pytest.approx(np.percentile(draws, 1), abs=1e-9)


def test_a_reference_crosses_processes() -> None:
    info = model("digits-realnvp", "flow", "none", reference=REFERENCE)
    assert unpack_model(pack_model(info)) == info
