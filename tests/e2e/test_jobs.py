"""Durable jobs over real Ray Serve."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from PIL import Image

from tests.e2e.running import ROOT, Server, free_port, until

ASK = {"model": "shapes-ldm", "prompt": "a green ring", "steps": 20, "n": 2, "seed": 5}
LONG = {**ASK, "steps": 150, "n": 4}
FINAL = ("succeeded", "failed", "canceled")
PATIENCE = 300.0


def submit(server: Server, request: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = server.post("/v1/jobs", {"task": "generate", "request": request, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(server: Server, job_id: str) -> dict[str, Any]:
    """The job at its end; whoever asks while a replica is replaced asks again."""

    def look() -> dict[str, Any] | None:
        try:
            answer = httpx.get(f"{server.url}/v1/jobs/{job_id}", timeout=10.0)
        except httpx.TransportError:
            return None
        found = answer.json() if answer.is_success else None
        return found if found and found["status"] in FINAL else None

    return until(look, f"{job_id} is done", PATIENCE)


def pixels(server: Server, job: dict[str, Any]) -> list[bytes]:
    files = [httpx.get(server.url + row["url"]).raise_for_status() for row in job["data"]]
    return [pixels_of(file.content) for file in files]


def pixels_of(image: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(image))).tobytes()


def test_a_job_is_submitted_followed_and_fetched(server: Server):
    job = submit(server, ASK)
    with httpx.stream("GET", f"{server.url}/v1/jobs/{job['id']}/events", timeout=PATIENCE) as told:
        assert told.status_code == 200
        names = re.findall(r"^event: (\w+)$", told.read().decode(), re.MULTILINE)
    assert names[-3:] == ["image", "image", "done"]
    done = ended(server, job["id"])
    assert (done["status"], done["attempts"], done["rows_done"]) == ("succeeded", 1, 2)
    direct = server.post("/v1/generate", ASK).raise_for_status().json()
    made = [pixels_of(base64.b64decode(row["b64_json"])) for row in direct["data"]]
    assert pixels(server, done) == made
    assert server.total("atelier_jobs", state="succeeded") >= 1


def test_a_canceled_job_leaves_the_device(server: Server):
    job = submit(server, {**LONG, "steps": 1000})
    until(lambda: server.trajectories() > 0, "it is on the device", PATIENCE)
    answer = httpx.delete(f"{server.url}/v1/jobs/{job['id']}", timeout=30.0)
    assert answer.json()["status"] == "canceled"
    until(lambda: server.trajectories() == 0, "its rows have left")
    assert ended(server, job["id"])["data"] is None


def test_kill_nine_of_the_gateway_costs_no_job(server: Server):
    expected = ended(server, submit(server, LONG)["id"])
    jobs = [submit(server, LONG) for _ in range(3)]
    until(lambda: server.trajectories() > 0, "one is on the device", PATIENCE)
    gateway = server.replica("gateway")
    assert gateway is not None
    gateway.kill()
    done = [ended(server, job["id"]) for job in jobs]
    assert {job["status"] for job in done} == {"succeeded"}
    assert max(job["attempts"] for job in done) == 2
    images = pixels(server, expected)
    assert all(pixels(server, job) == images for job in done)
    until(server.ready, "the service is back", PATIENCE)


def test_a_service_that_is_killed_goes_on_with_its_jobs_when_it_is_started_again(
    store: Path, tmp_path: Path
):
    first = serve(store, tmp_path)
    try:
        jobs = [submit(first, LONG) for _ in range(3)]
        until(lambda: first.trajectories() > 0, "one is on the device", PATIENCE)
    finally:
        first.destroy()
    second = serve(store, tmp_path)
    try:
        done = [ended(second, job["id"]) for job in jobs]
        assert {job["status"] for job in done} == {"succeeded"}
        assert len({tuple(pixels(second, job)) for job in done}) == 1
    finally:
        second.stop()


def serve(store: Path, state: Path) -> Server:
    """``atelier serve`` with a folder for its state that outlives it, and no model preloaded."""
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    config["applications"][0]["args"]["pools"][0]["preload"] = []
    path = state / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [sys.executable, "-m", "services.cli", "serve", "--port", str(port)]
    command += ["--config", str(path), "--store", str(store)]
    own = {"ATELIER_KEY_FILE": str(state / "keys.json")}
    return Server(command, port=port, environment=own)
