"""Attacks that need no running service, and the table of all of them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.errors import QueueFull
from services.core.job import Answer, Call, CallFinished, Encoding, Item, Progress, Task, Timings
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.wire import (
    pack_call,
    pack_event,
    pack_outcome,
    unpack_call,
    unpack_event,
    unpack_outcome,
)
from tests.unit.gateway.conftest import ScriptedBackend

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = 33
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "_pickle"}
ROW = re.compile(r"^\| (\d+) \|.*\|([^|]*)\|$", re.MULTILINE)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("services", "model_store"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def rows() -> dict[int, list[str]]:
    table = (ROOT / "tests" / "ATTACKS.md").read_text(encoding="utf-8")
    return {int(number): re.findall(r"`([^`]+)`", tests) for number, tests in ROW.findall(table)}


def test_every_attack_has_a_test_and_every_test_exists():
    found = rows()
    assert sorted(found) == list(range(1, ATTACKS + 1))
    assert all(found.values())
    for test in {test for tests in found.values() for test in tests}:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in names, test


def test_no_check_is_an_assert():
    """Attack 33."""
    found = [
        f"{path}:{node.lineno}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert not found


def test_no_code_of_ours_unpickles():
    """Attack 23; torch's own files are read by `weights_only` alone, and only by recipes."""
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            if UNPICKLERS & set(names):
                found.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                safe = "weights_only=True" in ast.unparse(node)
                if ast.unparse(node.func) == "torch.load" and not safe:
                    found.append(f"{path}:{node.lineno}")
                if "allow_pickle=True" in ast.unparse(node):
                    found.append(f"{path}:{node.lineno}")
    assert not found


def plain(value: Any) -> Any:
    """A value with its bytes as text, so that what is left must be JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    return value


def test_what_crosses_processes_is_plain():
    """Attack 23: JSON and bytes, and it comes back as it was."""
    call = Call(
        id="a",
        model="m",
        task=Task.EDIT,
        parameters={"steps": 3},
        operation="variation",
        images=(b"png",),
        mask=b"mask",
        encoding=Encoding("webp", 80),
        controls=(b"c",),
        trace={"traceparent": "00-1-2-01"},
        visible=("m", "n"),
    )
    answer = Answer("m", (Item({"seed": 1}, b"png"),), Timings(step=1.0), device_seconds=0.5)
    events = [Progress(0, 1, 2, 0.5, 0.1), CallFinished("m", Timings(), 0.5)]
    for packed in (pack_call(call), pack_outcome(answer), *map(pack_event, events)):
        json.dumps(plain(packed), allow_nan=False)
    assert unpack_call(pack_call(call)) == call
    assert unpack_outcome(pack_outcome(answer)) == answer
    assert [unpack_event(pack_event(event)) for event in events] == events
    with pytest.raises(QueueFull, match="full"):
        unpack_outcome(pack_outcome(QueueFull("it is full", retry_after=1.0)))


@pytest.mark.slow
def test_ten_thousand_invented_names_leave_the_number_of_series_flat():
    """Attack 29."""
    registry = CollectorRegistry()
    app = create_app(ScriptedBackend(), GatewaySettings(), metrics=GatewayMetrics(registry))
    client = TestClient(app)

    def invent(number: int) -> None:
        name = f"invented-{number}"
        match number % 5:
            case 0:
                client.get(f"/{name}")
            case 1:
                client.get(f"/v1/models/{name}")
            case 2:
                client.post("/v1/generate", json={"model": name})
            case 3:
                client.post("/v1/edit", json={"model": "shapes-ldm", "operation": name})
            case _:
                client.get(f"/v2/models/{name}", headers={"x-request-id": name, "user-agent": name})

    def series() -> int:
        return sum(len(family.samples) for family in registry.collect())

    for number in range(10):
        invent(number)
    before = series()
    for number in range(10_000):
        invent(number)
    assert series() == before


@pytest.mark.slow
def test_the_gateways_refusals_hold_without_asserts(tmp_path: Path):
    """Attack 33: asked by a program that runs under -O, where `assert` does nothing."""
    own = {"ATELIER_KEY_FILE": str(tmp_path / "keys.json"), "XDG_STATE_HOME": str(tmp_path)}
    environment = {**os.environ, **own}
    program = ROOT / "tests" / "without_asserts.py"
    found = subprocess.run(
        [sys.executable, "-O", str(program)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "refused" in found.stdout
