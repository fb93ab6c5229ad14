"""The series of several processes on one page."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.metrics import MULTIPROCESS_VARIABLE
from services.serving.gateway_deployment import GatewayReplica
from services.serving.process_metrics import ProcessMetrics
from services.serving.settings import Deployment, Pool
from services.serving.shared_metrics import environment_of

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import sys
from prometheus_client import CollectorRegistry
from services.serving.process_metrics import ProcessMetrics
pool = ProcessMetrics(CollectorRegistry()).of_pool("default")
for _ in range(int(sys.argv[1])):
    pool.evaluated("a-model", "step", 2, 4, 0.1)
pool.queued(1.5, int(sys.argv[1]))
print("counted", flush=True)
sys.stdin.read()
"""

READER = """
from prometheus_client import CollectorRegistry
from services.serving.shared_metrics import SharedMetrics
print(SharedMetrics(CollectorRegistry()).render()[0].decode())
"""

TRACED = """
from prometheus_client import CollectorRegistry
from services.serving.shared_metrics import SharedMetrics
metrics = SharedMetrics(CollectorRegistry())
metrics.answered(
    route="/r", model="a-model", task="generate", code=200, seconds=0.3, trace_id="ab" * 16
)
print(metrics.render("application/openmetrics-text")[0].decode())
"""


def start(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {MULTIPROCESS_VARIABLE: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that have counted one and two evaluations, and go on living."""
    started = [start(tmp_path, WORKER, "1"), start(tmp_path, WORKER, "2")]
    for worker in started:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "counted\n"
    yield started
    for worker in started:
        worker.kill()
        worker.communicate()


def page(folder: Path) -> dict[str, float]:
    text, _ = start(folder, READER).communicate()
    families = text_string_to_metric_families(text)
    return {s.name: s.value for family in families for s in family.samples if "le" not in s.labels}


def test_a_page_adds_up_what_all_processes_counted_and_hold(
    workers: list[subprocess.Popen[str]], tmp_path: Path
):
    shown = page(tmp_path)
    assert shown["atelier_network_evaluations_total"] == 3
    assert shown["atelier_batch_rows_sum"] == 6
    assert shown["atelier_trajectories"] == 3
    assert shown["atelier_queue_device_seconds"] == 3


def test_a_dead_process_keeps_its_counts_and_loses_its_gauges(
    workers: list[subprocess.Popen[str]], tmp_path: Path
):
    workers[1].kill()
    workers[1].wait()
    shown = page(tmp_path)
    assert shown["atelier_network_evaluations_total"] == 3
    assert shown["atelier_trajectories"] == 1
    assert shown["atelier_queue_device_seconds"] == 1.5


def test_what_several_processes_show_as_openmetrics_has_the_traces_of_who_is_asked(
    workers: list[subprocess.Popen[str]], tmp_path: Path
):
    text, _ = start(tmp_path, TRACED).communicate()
    samples = [s for family in openmetrics(text.rstrip("\n") + "\n") for s in family.samples]
    (found,) = [s for s in samples if s.exemplar]
    assert (found.labels["le"], found.exemplar.labels) == ("0.5", {"trace_id": "ab" * 16})
    counted = [s.value for s in samples if s.name == "atelier_network_evaluations_total"]
    assert counted == [3]


def test_the_pools_of_one_process_add_up_to_its_gauges():
    registry = CollectorRegistry()
    process = ProcessMetrics(registry)
    first, second = process.of_pool("first"), process.of_pool("second")
    first.queued(1.0, 2)
    second.queued(0.5, 3)
    assert registry.get_sample_value("atelier_queue_device_seconds") == 1.5
    assert registry.get_sample_value("atelier_trajectories", {"state": "accepted"}) == 5
    first.queued(0.0, 0)
    assert registry.get_sample_value("atelier_trajectories", {"state": "accepted"}) == 3


def test_one_process_shares_with_nobody_and_several_share_a_folder(tmp_path: Path):
    fused, apart = Pool(name="a", placement="fused"), Pool(name="b", models=["x"])
    assert environment_of(Deployment(pools=[fused])) == {}
    shared = {MULTIPROCESS_VARIABLE: str(tmp_path)}
    for several in (
        Deployment(pools=[fused, apart], metrics_folder=str(tmp_path)),
        Deployment(pools=[fused], gateway_replicas=2, metrics_folder=str(tmp_path)),
    ):
        assert environment_of(several) == shared


@pytest.mark.filterwarnings("ignore:coroutine 'GatewayReplica.__del__'")  # Serve awaits it
def test_two_pools_can_be_fused_into_one_gateway(tmp_path: Path):
    pools = [
        {"name": "rest", "placement": "fused"},
        {"name": "own", "placement": "fused", "models": ["shapes-ldm"]},
    ]
    replica = GatewayReplica({"pools": pools, "store": str(tmp_path)})

    async def names() -> list[str]:
        found = [status.name for status in await replica._backend.status()]
        await replica.__del__()
        return found

    assert asyncio.run(names()) == ["rest", "own"]
