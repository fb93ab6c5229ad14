"""Every Serve config of deploy/ is one that Ray Serve and the application take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from model_store.store import Store
from services.core.errors import InvalidParameter
from services.gateway.settings import GatewaySettings
from services.serving.cluster_node import METRICS_FOLDER, STATE
from services.serving.server import _checked, read_config
from services.serving.settings import Deployment

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
SEVERAL = "several-nodes"
CONFIGS = sorted(DEPLOY.glob("*.yaml"))


def arguments(path: Path) -> dict[str, Any]:
    (application,) = read_config(path)["applications"]
    return application["args"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestConfig:
    def test_ray_serve_takes_it(self, path: Path) -> None:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        assert [a.import_path for a in schema.applications] == ["services.serving.app:build"]

    def test_the_application_takes_it(self, path: Path) -> None:
        deployment = Deployment.model_validate(arguments(path))
        GatewaySettings(**deployment.gateway)
        assert sum(pool.takes_the_rest for pool in deployment.pools) == 1

    def test_its_models_are_in_the_catalog(self, path: Path, tmp_path: Path) -> None:
        known = set(Store(tmp_path).ids())
        for pool in Deployment.model_validate(arguments(path)).pools:
            assert {m for m in (*pool.models, *pool.preload) if m != "*"} <= known

    def test_a_misspelt_pool_is_refused(self, path: Path) -> None:
        wrong = arguments(path)
        wrong["pools"][0]["num_gpu"] = wrong["pools"][0].pop("num_gpus", 1)
        with pytest.raises(ValidationError, match="num_gpu"):
            Deployment.model_validate(wrong)


def test_there_are_configs() -> None:
    assert {"serve", "one-gpu", "many-models", SEVERAL} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != SEVERAL], ids=lambda p: p.stem)
def test_one_machine_listens_on_the_loopback(path: Path) -> None:
    config = read_config(path)
    assert _checked(config, config["http_options"])[0].host == "127.0.0.1"


def test_several_machines_have_series_and_gateways_where_they_are_looked_for() -> None:
    deployment = Deployment.model_validate(arguments(DEPLOY / f"{SEVERAL}.yaml"))
    assert deployment.metrics_folder == str(STATE / METRICS_FOLDER)
    assert deployment.gateway_num_cpus > 0


def test_listening_everywhere_takes_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATELIER_KEY_FILE", str(tmp_path / "none.json"))
    config = read_config(DEPLOY / "one-gpu.yaml")
    with pytest.raises(InvalidParameter, match="API key"):
        _checked(config, {**config["http_options"], "host": "192.0.2.1"})
