from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.store import Store
from services.cli import app, checks
from services.cli.checks import Surroundings


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_STORE", str(tmp_path / "store"))


def level(findings: list[checks.Finding], subject: str) -> str:
    return next(finding.level for finding in findings if finding.subject == subject)


def test_what_is_broken_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"python": checks.check_python}
    monkeypatch.setattr("services.cli.doctor.CHECKS", only)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    monkeypatch.setattr(checks, "OLDEST_PYTHON", (4, 0))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "broken" in result.stdout


def test_two_builds_of_onnxruntime_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version_of", lambda name: "1.31.1")
    assert level(checks.check_onnxruntime(Surroundings()), "onnxruntime") == "broken"


def test_a_gpu_that_onnxruntime_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "has_nvidia_device", lambda: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert level(checks.check_onnxruntime(Surroundings()), "onnxruntime") == "warning"


def test_a_missing_ray_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version_of", lambda name: None)
    assert level(checks.check_ray(Surroundings()), "ray") == "broken"


def test_an_altered_file_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = checks.Store.__module__ and "weights.onnx is not the file that was stored"
    monkeypatch.setattr(Store, "ids", lambda self: ["whole", "altered"])
    monkeypatch.setattr(
        Store,
        "verify",
        lambda self, name: [type("Problem", (), {"problem": problem})] if name == "altered" else [],
    )
    findings = checks.check_store(Surroundings())
    assert level(findings, "model altered") == "broken"
    assert level(findings, "models") == "ok"


def test_an_empty_store_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "ids", lambda self: [])
    assert level(checks.check_store(Surroundings()), "models") == "broken"


def test_a_store_that_others_can_write_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    (tmp_path / "store").chmod(0o777)
    monkeypatch.setattr(Store, "ids", lambda self: ["whole"])
    monkeypatch.setattr(Store, "verify", lambda self, name: [])
    assert level(checks.check_store(Surroundings()), "store") == "warning"


def test_a_taken_port_is_a_warning_and_a_free_one_is_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert level(checks.check_port(Surroundings(port)), "port") == "warning"
    assert level(checks.check_port(Surroundings(port)), "port") == "ok"


def test_settings_that_cannot_be_read_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_MAX_STEPS", "many")
    assert level(checks.check_access(Surroundings()), "settings") == "broken"


def test_an_open_door_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_HOST", "0.0.0.0")  # noqa: S104 - what is to be refused
    assert level(checks.check_access(Surroundings()), "settings") == "broken"


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_memory", lambda: 1 << 30)
    assert level(checks.check_memory(Surroundings()), "memory") == "warning"
