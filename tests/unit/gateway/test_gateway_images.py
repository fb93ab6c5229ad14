"""Generate and edit: what reaches the backend, and what comes back."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.core.job import Encoding, Task

ASK = {"model": "shapes-ldm", "prompt": "a large red star on black", "seed": 7}


def test_answers_json_by_default(client: Any, backend: Any) -> None:
    answer = client.post("/v1/generate", json={**ASK, "n": 2})
    body = answer.json()
    assert answer.status_code == 200
    assert body["model"] == "shapes-ldm"
    assert [entry["seed"] for entry in body["data"]] == [7, 8]
    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert body["timings"] == {
        "queue": 0.001,
        "prepare": 0.002,
        "step": 0.25,
        "decode": 0.004,
        "encode": 0.005,
    }
    assert isinstance(body["created"], int)


def test_only_the_fields_that_were_set_reach_the_model(client: Any, backend: Any) -> None:
    client.post(
        "/v1/generate",
        json={**ASK, "steps": 20, "size": "64x32", "output_format": "webp", "label": None},
    )
    (call,) = backend.calls
    assert call.parameters == {"prompt": ASK["prompt"], "seed": 7, "steps": 20}
    assert (call.model, call.task, call.operation) == ("shapes-ldm", Task.GENERATE, None)
    assert call.encoding == Encoding("webp", 100)
    assert call.deadline is None


@pytest.mark.parametrize("route", ["generate", "edit"])
def test_a_seed_is_drawn_where_none_was_given(client: Any, backend: Any, route: str) -> None:
    body = {"model": "shapes-ldm"} | ({"operation": "interpolate"} if route == "edit" else {})
    seeds = {client.post(f"/v1/{route}", json=body).json()["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/png", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("image/*", "image/png"),
        ("application/json;q=0.5, image/webp", "image/webp"),
        ("image/jpeg;q=0.2, image/webp;q=0.9, */*;q=0.1", "image/webp"),
    ],
)
def test_one_image_leaves_as_raw_bytes(client: Any, accept: str, media_type: str) -> None:
    answer = client.post("/v1/generate", json=ASK, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-atelier-seed"] == "7"
    assert answer.headers["x-atelier-model"] == "shapes-ldm"
    timing = answer.headers["server-timing"]
    assert timing.startswith("queue;dur=1.000, prepare;dur=2.000, step;dur=250.000, ")
    assert "total;dur=" in timing


@pytest.mark.parametrize("accept", ["*/*", "application/json, image/png;q=0.5", "text/html", ""])
def test_other_accept_headers_get_json(client: Any, accept: str) -> None:
    answer = client.post("/v1/generate", json=ASK, headers={"accept": accept})
    assert answer.headers["content-type"] == "application/json"


def test_body_wins_over_the_accept_header(client: Any) -> None:
    raw = client.post("/v1/generate", json={**ASK, "response": "image", "output_format": "jpeg"})
    assert raw.headers["content-type"] == "image/jpeg"
    accept = {"accept": "image/png"}
    assert client.post("/v1/generate", json={**ASK, "response": "json"}, headers=accept).json()
    both = client.post("/v1/generate", json={**ASK, "output_format": "webp"}, headers=accept)
    assert both.headers["content-type"] == "image/webp"


def test_several_images_cannot_be_raw(client: Any, backend: Any) -> None:
    several = {**ASK, "n": 2}
    refused = client.post("/v1/generate", json=several, headers={"accept": "image/png"})
    assert refused.status_code == 422
    assert "application/json" in refused.json()["error"]["message"]
    assert not backend.calls
    either = client.post(
        "/v1/generate", json=several, headers={"accept": "image/png, application/json;q=0.1"}
    )
    assert len(either.json()["data"]) == 2


def test_another_size_is_refused_and_names_the_right_one(client: Any) -> None:
    answer = client.post("/v1/generate", json={**ASK, "size": "32x64"})
    assert answer.status_code == 422
    assert "64x32" in answer.json()["error"]["message"]


def test_deadline_is_passed_on_less_the_time_already_spent(connect: Any, backend: Any) -> None:
    client = connect(default_deadline=30)
    client.post("/v1/generate", json={**ASK, "deadline": 5})
    client.post("/v1/generate", json=ASK)
    asked, by_default = (call.deadline for call in backend.calls)
    assert 4 < asked < 5
    assert 29 < by_default < 30


def test_edit_takes_base64_and_data_urls(client: Any, backend: Any, image: Any) -> None:
    png, webp = image("PNG"), image("WEBP")
    answer = client.post(
        "/v1/edit",
        json={
            "model": "shapes-ldm",
            "operation": "inpaint",
            "image": base64.b64encode(png).decode(),
            "images": ["data:image/webp;base64," + base64.b64encode(webp).decode()],
            "mask": base64.b64encode(png).decode(),
            "strength": 0.5,
        },
    )
    assert answer.status_code == 200
    (call,) = backend.calls
    assert call.images == (png, webp)
    assert call.mask == png
    assert call.name == "inpaint"
    assert set(call.parameters) == {"strength", "seed"}


def test_edit_takes_files_and_text_scalars(client: Any, backend: Any, image: Any) -> None:
    png, jpeg = image("PNG"), image("JPEG")
    answer = client.post(
        "/v1/edit",
        data={
            "model": "shapes-vae",
            "operation": "interpolate",
            "n": "3",
            "strength": "0.25",
            "latents": '[{"data": "AAAAAA==", "shape": [1]}, {"data": "AACAPw==", "shape": [1]}]',
            "fractions": "[0, 0.5, 1]",
        },
        files=[
            ("image[]", ("a.bin", png, "application/octet-stream")),
            ("images", ("b.png", jpeg, "image/png")),
            ("mask", ("m.png", png, "image/png")),
        ],
    )
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    assert call.images == (png, jpeg)
    assert call.mask == png
    assert (call.parameters["n"], call.parameters["strength"]) == (3, 0.25)
    assert call.parameters["fractions"] == [0.0, 0.5, 1.0]
    assert call.parameters["latents"][1] == {"data": "AACAPw==", "shape": [1]}


def test_an_answer_of_several_items_cannot_be_raw(client: Any, backend: Any) -> None:
    form = {"model": "shapes-vae", "operation": "interpolate", "response": "image"}
    backend._items = lambda call: iter(())
    answer = client.post("/v1/edit", json=form)
    assert answer.status_code == 422
    assert "0 items" in answer.json()["error"]["message"]


def test_a_models_own_number_of_images_counts_too(client: Any, backend: Any) -> None:
    frames = {"properties": {"n": {"type": "integer", "default": 8}}}
    backend.catalog["shapes-vae"].operations["interpolate"] = frames
    body = {"model": "shapes-vae", "operation": "interpolate", "seeds": [1, 2]}
    answer = client.post("/v1/edit", json=body, headers={"accept": "image/png"})
    assert answer.status_code == 422
    assert "8 images" in answer.json()["error"]["message"]
    assert not backend.calls


def test_the_name_of_a_second_model_reaches_the_backend(client: Any, backend: Any) -> None:
    assert client.post("/v1/generate", json={**ASK, "cascade": "photos-sr"}).status_code == 200
    assert backend.calls[-1].parameters["cascade"] == "photos-sr"
    refused = client.post(
        "/v1/edit", json={**ASK, "operation": "variation", "cascade": "photos-sr"}
    )
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "cascade"
