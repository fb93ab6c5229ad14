"""Each replica of a gateway can withdraw what another is answering, on a real Ray Serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.integration import two_gateways

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_whichever_replica_is_asked_the_request_is_withdrawn() -> None:
    folder = tempfile.mkdtemp(prefix="two-")  # sockets below it must have short names
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", two_gateways.__name__, folder],
            cwd=ROOT,
            env={**kept, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["holders"] == two_gateways.REPLICAS, "each replica answers some"
    assert told["askers"] == two_gateways.REPLICAS, "each replica is asked"
    assert told["found"] == [True] * two_gateways.WITHDRAWN
    assert told["not_found"] == [False, False]
    assert told["withdrawn"] == [f"request-{i}" for i in range(two_gateways.WITHDRAWN)]
