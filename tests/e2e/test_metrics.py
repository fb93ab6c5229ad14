"""One page shows every process's series, and they add up."""

from __future__ import annotations

import base64

from tests.e2e.asks import png
from tests.e2e.running import Server, until

NAMES = {
    "atelier_requests_total",
    "atelier_request_seconds_count",
    "atelier_queue_seconds_count",
    "atelier_stage_seconds_count",
    "atelier_images_total",
    "atelier_network_evaluations_total",
    "atelier_batch_rows_count",
    "atelier_batch_fill_ratio_count",
    "atelier_queue_device_seconds",
    "atelier_trajectories",
    "atelier_rejected_total",
    "atelier_canceled_total",
    "atelier_device_memory_bytes",
    "atelier_likelihood_bits_per_dim_count",
    "atelier_model_load_seconds_count",
}
"""All that are documented."""
LONG = {"model": "shapes-ldm", "prompt": "a red star", "steps": 200, "n": 4, "sampler": "euler"}
ASK = {
    "model": "shapes-ldm",
    "prompt": "a red star",
    "seed": 1,
    "steps": 5,
    "sampler": "euler",
    "guidance_scale": 1.0,
}


def test_known_traffic_is_counted_exactly(server: Server):
    def counts() -> dict[str, float]:
        mine = {"route": "/v1/generate", "task": "generate"}
        known = mine | {"model": "shapes-ldm"}
        return {
            "answered": server.total("atelier_requests_total", code="200", **known),
            "timed": server.total(
                "atelier_request_seconds_count", route="/v1/generate", model="shapes-ldm"
            ),
            "images": server.total("atelier_images_total", model="shapes-ldm", task="generate"),
            "evaluations": server.total("atelier_network_evaluations_total", model="shapes-ldm"),
            "rows": server.total("atelier_batch_rows_sum", model="shapes-ldm"),
            "unknown": server.total("atelier_requests_total", code="404", **mine),
            "refused": server.total("atelier_rejected_total", reason="model_not_found"),
        }

    before = counts()
    for _ in range(3):
        server.post("/v1/generate", ASK).raise_for_status()
    assert server.post("/v1/generate", {**ASK, "model": "nobody"}).status_code == 404
    grown = {name: value - before[name] for name, value in counts().items()}
    assert grown == {
        "answered": 3,
        "timed": 3,
        "images": 3,
        "evaluations": 3 * (ASK["steps"] + 1),
        "rows": 3 * (ASK["steps"] + 1),
        "unknown": 1,
        "refused": 1,
    }


def test_the_page_shows_the_documented_series_and_an_idle_queue(server: Server):
    server.post("/v1/generate", ASK).raise_for_status()
    server.post("/v1/generate", {**ASK, "model": "nobody"})
    before = server.total("atelier_likelihood_bits_per_dim_count", model="shapes-vae")
    images = [base64.b64encode(png(seed, 32)).decode() for seed in range(3)]
    judged = server.post("/v1/likelihood", {"model": "shapes-vae", "images": images}).json()
    bits = [entry["bits_per_dim"] for entry in judged["data"]]
    counted = server.total("atelier_likelihood_bits_per_dim_count", model="shapes-vae")
    assert counted == before + len(bits)
    server.begin("/v1/generate", LONG).close()
    until(lambda: server.total("atelier_canceled_total", where="client"), "it was withdrawn")
    until(lambda: server.trajectories() == 0, "its rows are gone")
    assert {name for name, _ in server.samples()} >= NAMES
    assert server.total("atelier_device_memory_bytes") > 1 << 20
    assert server.total("atelier_trajectories") == 0
    assert server.total("atelier_queue_device_seconds") == 0
    loads = server.total("atelier_model_load_seconds_count", model="shapes-vae")
    assert loads >= 1


def test_no_client_can_invent_a_label(server: Server):
    server.post("/v1/generate", {**ASK, "model": "invented"})
    server.get("/v1/models")
    labels = {value for _, has in server.samples() for _, value in has}
    assert "invented" not in labels
