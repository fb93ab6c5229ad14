"""Over real Ray Serve: every image that leaves says where it comes from, and a verifier agrees."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from PIL import Image

from services.provenance.inspection import Inspection, inspect
from services.provenance.record import COMPOSED, GENERATED
from tests.e2e.running import Server, until

ASK = {"model": "shapes-ldm", "prompt": "a large red star on black", "seed": 7, "steps": 4}
FAST = {"model": "shapes-cgan", "label": "star", "seed": 7}

pytestmark = pytest.mark.parametrize("server", ["fused"], indirect=True)


@pytest.fixture
def read(server: Server) -> Any:
    """Reads an image as somebody who trusts the server's development certificate."""
    anchor = (server.folder / "provenance" / "development-ca.pem").read_bytes()
    return lambda data: inspect(data, [anchor])


def images_of(answer: Any) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(entry["b64_json"]) for entry in answer.json()["data"]]


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_generated(found: Inspection, model: str) -> None:
    assert (found.manifest.verdict, found.manifest.problems) == ("trusted", ())
    assert (found.manifest.actions, found.manifest.source_types) == (
        ("c2pa.created",),
        (GENERATED,),
    )
    assert found.source_type == GENERATED
    assert found.manifest.generation is not None
    assert found.manifest.generation["models"][0]["id"] == model
    assert len(found.manifest.generation["models"][0]["sha256"]) == 64


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_raw_images(server: Server, read: Any, image_format: str) -> None:
    with server.client() as client:
        headers = {"accept": f"image/{image_format}"}
        data = client.post("/v1/generate", json=FAST, headers=headers).content
    assert_generated(read(data), "shapes-cgan")
    for part in (b"DigitalSourceType=", b"org.atelier.gen", b"Atelier development signer"):
        place = data.index(part) + len(part) + 20
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert read(changed).manifest.verdict == "invalid", part


def test_json_answers_streams_and_what_makes_an_image_again(server: Server, read: Any) -> None:
    with server.client() as client:
        made = images_of(client.post("/v1/generate", json={**ASK, "n": 2}))
        for one in made:
            assert_generated(read(one), "shapes-ldm")
            again = client.post("/v1/generate", json=read(one).parameters["request"])
            assert np.array_equal(pixels(images_of(again)[0]), pixels(one))
        stream = {**ASK, "response": "stream", "preview_every": 1}
        text = client.post("/v1/generate", json=stream).text
        bare = client.post("/v1/generate", json={**ASK, "metadata": False})
    frames = [block.split("\ndata: ") for block in text.split("\n\n") if "\ndata: " in block]
    found = {name: json.loads(data) for name, data in frames}
    final = base64.b64decode(found["event: image"]["b64_json"])
    assert_generated(read(final), "shapes-ldm")
    assert np.array_equal(pixels(final), pixels(made[0]))
    preview = base64.b64decode(found["event: preview"]["b64_json"])
    assert read(preview).manifest.verdict == "absent"
    (bare_image,) = images_of(bare)
    assert read(bare_image).parameters is None
    assert_generated(read(bare_image), "shapes-ldm")
    assert np.array_equal(pixels(bare_image), pixels(made[0]))


def test_an_edit_names_its_image_and_keeps_its_manifest(server: Server, read: Any) -> None:
    with server.client() as client:
        (first,) = images_of(client.post("/v1/generate", json=ASK))
        stranger = io.BytesIO()
        Image.fromarray(pixels(first)).save(stranger, "JPEG")
        for upload, own in ((first, True), (stranger.getvalue(), False)):
            body = {**ASK, "operation": "variation", "image": base64.b64encode(upload).decode()}
            (second,) = images_of(client.post("/v1/edit", json=body))
            manifest = read(second).manifest
            assert (manifest.verdict, manifest.problems) == ("trusted", ())
            assert manifest.actions == ("c2pa.opened", "c2pa.edited")
            assert manifest.source_types == (COMPOSED,)
            (source,) = manifest.ingredients
            assert (source.relationship, source.manifest) == ("parentOf", own)
            assert source.problems == ()


def test_the_clients_of_others_get_signed_images(server: Server, read: Any) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.images.generate(
            model="shapes-cgan", prompt="a star", n=2, extra_body={"seed": 7}
        )
    for one in answer.data or []:
        assert_generated(read(base64.b64decode(one.b64_json or "")), "shapes-cgan")
    with server.client() as raw:
        answer = raw.post("/hf/shapes-cgan/text-to-image", json={"inputs": "a star"})
    assert_generated(read(answer.content), "shapes-cgan")
    hugging_face = InferenceClient(f"{server.url}/hf/shapes-cgan/text-to-image")
    assert "parameters" in hugging_face.text_to_image("a star").info


def test_a_job_leaves_signed_images(server: Server, read: Any) -> None:
    with server.client() as client:
        asked = client.post("/v1/jobs", json={"task": "generate", "request": {**FAST, "n": 2}})
        assert asked.status_code == 202, asked.text
        place = asked.headers["location"]

        def done() -> Any:
            job = client.get(place).json()
            return job if job["status"] not in ("queued", "running") else None

        job = until(done, "the job is done", 60.0)
        assert job["status"] == "succeeded", job
        assert len(job["data"]) == 2
        for entry in job["data"]:
            assert_generated(read(client.get(entry["url"]).content), "shapes-cgan")


def test_status_tells(server: Server) -> None:
    told = server.get("/v1/status")["provenance"]
    assert (told["enabled"], told["certificate"]) == (True, "development")


def test_the_key_is_nobody_elses_and_in_no_log(server: Server) -> None:
    file = server.folder / "provenance" / "development.pem"
    assert (file.stat().st_mode & 0o777) == 0o600
    _, _, key = file.read_text().partition("-----BEGIN PRIVATE KEY-----\n")
    secret = key.splitlines()[0]
    logs = [path for path in server.folder.rglob("*.log") if path.is_file()]
    logs += [path for path in server.folder.rglob("*.err") if path.is_file()]
    said = server.said() + "".join(path.read_text(errors="replace") for path in logs)
    assert said
    assert secret not in said
