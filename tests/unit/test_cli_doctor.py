from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from model_store.store import Entry, Store
from model_store.versions import digest_of
from services.cli import app
from services.cli.checks import (
    Finding,
    Surroundings,
    access,
    origin,
    processor,
    records,
    room,
    software,
    stored,
    tuned,
)
from services.serving.settings import Pool
from services.serving.tuned import hardware

MODEL = "digits-realnvp"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ATELIER_KEY_FILE", str(tmp_path / "keys.json"))


def level(findings: list[Finding], subject: str) -> str:
    return next(finding.level for finding in findings if finding.subject == subject)


def kernel(root: Path, files: Mapping[str, str]) -> Surroundings:
    """A machine whose kernel says this of itself."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Surroundings(config=root / "none.yaml", root=root, environment={})


def served_by(folder: Path, arguments: dict[str, Any] | None = None, **beside: Any) -> Surroundings:
    """A deployment of these arguments."""
    file = folder / "serve.yaml"
    application = {"name": "atelier", "import_path": "x:y", "args": arguments or {}}
    file.write_text(yaml.safe_dump({"applications": [application], **beside}))
    return Surroundings(config=file, environment={})


def test_what_is_broken_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"python": software.check_python}
    monkeypatch.setattr("services.cli.doctor.CHECKS", only)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    monkeypatch.setattr(software, "OLDEST_PYTHON", (4, 0))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "broken" in result.stdout


def test_warnings_end_with_1_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    warned = Finding("warning", "load", "9 on 2 cores", "latencies vary", "a machine of its own")
    monkeypatch.setattr("services.cli.doctor.CHECKS", {"load": lambda around: [warned]})
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "--strict"]).exit_code == 1


def test_json_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    warned = Finding("warning", "load", "9 on 2 cores", "latencies vary", "a machine of its own")
    monkeypatch.setattr("services.cli.doctor.CHECKS", {"load": lambda around: [warned]})
    said = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert said == {
        "broken": 0,
        "warning": 1,
        "findings": [
            {
                "level": "warning",
                "subject": "load",
                "found": "9 on 2 cores",
                "why": "latencies vary",
                "advice": "a machine of its own",
            }
        ],
    }


def test_two_builds_of_onnxruntime_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert level(software.check_onnxruntime(Surroundings()), "onnxruntime") == "ok"
    monkeypatch.setattr(software, "version_of", lambda name: "1.31.1")
    assert level(software.check_onnxruntime(Surroundings()), "onnxruntime") == "broken"


def test_a_gpu_that_a_runtime_cannot_use_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    without = kernel(tmp_path / "without", {"proc/cpuinfo": ""})
    assert level(software.check_onnxruntime(without), "onnxruntime") == "ok"
    assert level(software.check_torch(without), "gpu") == "note"
    having = kernel(tmp_path / "having", {"dev/nvidia0": ""})
    assert level(software.check_onnxruntime(having), "onnxruntime") == "warning"
    assert level(software.check_torch(having), "gpu") == "warning"


def test_a_pool_on_a_gpu_that_is_not_there_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    around = served_by(tmp_path, {"pools": [{"name": "gpu", "device": "cuda"}]})
    assert level(software.check_torch(around), "gpu") == "broken"
    around = served_by(tmp_path, {"pools": [{"name": "gpu", "device": "auto"}]})
    assert level(software.check_torch(around), "gpu") in ("note", "warning")


def test_a_missing_ray_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "version_of", lambda name: None)
    assert level(software.check_ray(Surroundings()), "ray") == "broken"


def test_a_fast_proxy_that_is_switched_off_is_a_warning() -> None:
    switch = "RAY_SERVE_ENABLE_HA_PROXY"
    off = software.check_ray(Surroundings(environment={switch: "0"}))
    assert level(off, switch) == "warning"
    on = software.check_ray(Surroundings(environment={switch: "1"}))
    assert switch not in [finding.subject for finding in on]


@pytest.mark.parametrize(
    ("governor", "driver", "expected"),
    [
        ("performance", "acpi-cpufreq", "ok"),
        ("powersave", "acpi-cpufreq", "warning"),
        ("powersave", "intel_pstate", "ok"),
    ],
)
def test_a_governor_that_holds_cores_down_is_a_warning(
    tmp_path: Path, governor: str, driver: str, expected: str
) -> None:
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    said = {f"{folder}/scaling_governor": governor, f"{folder}/scaling_driver": driver}
    found = processor.check_governor(kernel(tmp_path, said))
    assert level(found, "cpu governor") == expected


@pytest.mark.parametrize(("stopped", "expected"), [(0, "note"), (40, "warning")])
def test_a_quota_that_stops_the_service_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int, expected: str
) -> None:
    monkeypatch.setattr(processor, "bound_cores", lambda: frozenset(range(8)))
    group = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cpu.max": "100000 100000",
        "sys/fs/cgroup/cpu.stat": f"nr_periods 100\nnr_throttled {stopped}\n",
    }
    assert level(processor.check_quota(kernel(tmp_path, group)), "cpu quota") == expected


def test_without_a_quota_all_is_well(tmp_path: Path) -> None:
    group = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}
    assert level(processor.check_quota(kernel(tmp_path, group)), "cpu quota") == "ok"


def test_more_threads_than_cores_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "usable_cores", lambda: 2)
    assert level(processor.check_threads(served_by(tmp_path)), "threads") == "ok"
    many = {"pools": [{"name": "a", "threads": 4}]}
    assert level(processor.check_threads(served_by(tmp_path, many)), "threads") == "note"
    crowded = {"pools": [{"name": "a", "replicas": 5, "threads": 1}]}
    assert level(processor.check_threads(served_by(tmp_path, crowded)), "threads") == "warning"


def test_a_busy_machine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert len(processor.check_processor(Surroundings())) == 1
    monkeypatch.setattr("os.getloadavg", lambda: (900.0, 0.0, 0.0))
    assert level(processor.check_processor(Surroundings()), "load") == "warning"


def meminfo(gib: float) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {int(gib * 2**20)} kB\n"}


def test_little_memory_is_a_warning(tmp_path: Path) -> None:
    assert level(room.check_memory(kernel(tmp_path, meminfo(1))), "memory") == "warning"
    assert level(room.check_memory(kernel(tmp_path, meminfo(8))), "memory") == "ok"


def test_a_containers_limit_counts_as_memory(tmp_path: Path) -> None:
    limit = {"sys/fs/cgroup/memory.max": str(1 << 30), "sys/fs/cgroup/memory.current": "0"}
    around = kernel(tmp_path, {**meminfo(8), **limit})
    assert level(room.check_memory(around), "memory") == "warning"


def test_models_that_cannot_all_be_loaded_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = kernel(tmp_path, meminfo(8))
    assert level(room.check_models_fit(around), "memory for models") == "ok"
    manifest = Store(tmp_path).get(MODEL)
    big = [Entry(manifest, "user", 5 << 30)]
    monkeypatch.setattr(Store, "entries", lambda self: big)
    assert level(room.check_models_fit(around), "memory for models") == "warning"


def test_a_disk_that_jobs_could_fill_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5 << 30))
    monkeypatch.setenv("ATELIER_JOBS__TOTAL_BYTES", str(1 << 30))
    assert level(room.check_disk(served_by(tmp_path)), "disk") == "ok"
    monkeypatch.setenv("ATELIER_JOBS__TOTAL_BYTES", str(9 << 30))
    assert level(room.check_disk(served_by(tmp_path)), "disk for jobs") == "warning"
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    assert level(room.check_disk(served_by(tmp_path)), "disk") == "warning"


@pytest.mark.parametrize(("files", "expected"), [(1024, "warning"), (65536, "ok")])
def test_few_open_files_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: str
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (files, files))
    assert level(room.check_open_files(Surroundings()), "open files") == expected


def test_an_altered_file_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SimpleNamespace(problem="weights.onnx is not the file that was stored")
    monkeypatch.setattr(Store, "ids", lambda self: ["whole", "altered"])
    monkeypatch.setattr(Store, "verify", lambda self, name: [problem] if name == "altered" else [])
    findings = stored.check_store(Surroundings())
    assert level(findings, "model altered") == "broken"
    assert level(findings, "models") == "ok"


def test_an_empty_store_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "ids", lambda self: [])
    assert level(stored.check_store(Surroundings()), "models") == "broken"


def test_a_store_that_others_can_write_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "ids", lambda self: ["whole"])
    monkeypatch.setattr(Store, "verify", lambda self, name: [])
    (tmp_path / "store").mkdir(mode=0o700)
    assert [finding.level for finding in stored.check_store(Surroundings())] == ["ok"]
    (tmp_path / "store").chmod(0o777)
    assert level(stored.check_store(Surroundings()), "store") == "warning"


def test_a_taken_port_is_a_warning_and_a_free_one_is_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert level(access.check_port(Surroundings(port)), "port") == "warning"
    assert level(access.check_port(Surroundings(port)), "port") == "ok"


def test_settings_that_cannot_be_read_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_MAX_STEPS", "many")
    assert level(access.check_access(Surroundings()), "settings") == "broken"


def test_an_open_door_is_broken_and_one_left_open_on_purpose_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = {"http_options": {"host": "0.0.0.0"}}  # noqa: S104 - what is to be refused
    assert level(access.check_access(served_by(tmp_path)), "keys") == "note"
    assert level(access.check_access(served_by(tmp_path, **public)), "settings") == "broken"
    monkeypatch.setenv("ATELIER_ALLOW_PUBLIC_BIND", "true")
    assert level(access.check_access(served_by(tmp_path, **public)), "keys") == "warning"
    asking = served_by(tmp_path, {"gateway": {"api_keys": ["0" * 64]}}, **public)
    assert level(access.check_access(asking), "keys") == "ok"


def test_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert level(access.check_user(Surroundings()), "user") == "note"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert level(access.check_user(Surroundings()), "user") == "ok"


def test_switches_of_development_are_a_warning(tmp_path: Path) -> None:
    assert level(access.check_switches(served_by(tmp_path)), "private addresses") == "ok"
    open_to_all = served_by(tmp_path, {"gateway": {"webhooks": {"allow_private": True}}})
    found = access.check_switches(open_to_all)
    assert level(found, "ATELIER_WEBHOOKS__ALLOW_PRIVATE") == "warning"


def test_a_certificate_for_development_is_told(tmp_path: Path) -> None:
    on = {"gateway": {"provenance": {"enabled": True}}}
    (finding,) = origin.check_provenance(served_by(tmp_path, on))
    assert finding.level == "note"
    assert "CERTIFICATE_FILE" in finding.advice


def test_jobs_that_other_machines_cannot_see_are_a_warning(tmp_path: Path) -> None:
    assert level(records.check_jobs(served_by(tmp_path)), "jobs") == "ok"
    many = {"proxy_location": "EveryNode"}
    assert level(records.check_jobs(served_by(tmp_path, **many)), "jobs") == "warning"
    shared = {"gateway": {"jobs": {"database_url": "postgresql://db/atelier"}}}
    assert level(records.check_jobs(served_by(tmp_path, shared, **many)), "jobs") == "warning"
    shared["gateway"]["jobs"]["artefacts_url"] = "s3://bucket/atelier"
    assert level(records.check_jobs(served_by(tmp_path, shared, **many)), "jobs") == "ok"


def test_what_is_kept_long_is_told(tmp_path: Path) -> None:
    assert level(records.check_retention(served_by(tmp_path)), "retention") == "ok"
    long = {"gateway": {"jobs": {"max_ttl": 90 * 86400}}}
    assert level(records.check_retention(served_by(tmp_path, long)), "retention") == "note"


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ({}, "ok"),
        ({"api_keys": ["0" * 64]}, "note"),
        ({"api_keys": ["0" * 64], "audit": {"enabled": True}}, "ok"),
        ({"audit": {"enabled": True, "prompts": True}}, "note"),
    ],
)
def test_callers_whom_nobody_writes_down_are_told(
    tmp_path: Path, gateway: dict[str, Any], expected: str
) -> None:
    assert (
        level(records.check_audit(served_by(tmp_path, {"gateway": gateway})), "audit") == expected
    )


def test_a_tuning_that_was_measured_elsewhere_is_a_warning(tmp_path: Path) -> None:
    assert level(tuned.check_tuning(served_by(tmp_path)), "tuning") == "note"
    here = hardware(Pool(name="default"))
    digest = digest_of(Store(tmp_path).get(MODEL))
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()

    def found(measured: dict[str, Any] | None) -> str:
        tuning = {MODEL: {"decode_rows": 4, "measured": measured}}
        arguments = {"pools": [{"name": "default", "placement": "fused", "tuning": tuning}]}
        return level(tuned.check_tuning(served_by(tmp_path, arguments)), f"tuning of {MODEL}")

    assert found({"at": at, "hardware": here, "model": digest}) == "ok"
    assert found({"at": at, "hardware": "another", "model": digest}) == "warning"
    assert found({"at": at, "hardware": here, "model": "0" * 64}) == "warning"
    assert found(None) == "note"


def test_a_tuning_of_no_model_is_broken(tmp_path: Path) -> None:
    tuning = {"no-such-model": {"decode_rows": 4}}
    arguments = {"pools": [{"name": "default", "placement": "fused", "tuning": tuning}]}
    found = tuned.check_tuning(served_by(tmp_path, arguments))
    assert level(found, "tuning of no-such-model") == "broken"
