"""Every way out of the gateway: images bear their origin, and are otherwise what they were."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.provenance.record import COMPOSED, GENERATED
from tests.unit.provenance.conftest import picture, pixels

ASK = {"model": "tiny-diffusion", "seed": 7, "steps": 2}
FORMATS = ("png", "jpeg", "webp")


def images_of(answer: Any) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(entry["b64_json"]) for entry in answer.json()["data"]]


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(
            line.split(": ", 1) for line in block.splitlines() if line.startswith(("e", "d"))
        )
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def assert_generated(found: Any, image_format: str = "png") -> None:
    manifest = found.manifest
    assert (manifest.verdict, manifest.problems) == ("trusted", ())
    assert manifest.claim_generator.startswith("Atelier ")
    assert (manifest.actions, manifest.source_types) == (("c2pa.created",), (GENERATED,))
    assert found.source_type == GENERATED
    assert found.media_type == f"image/{image_format}"


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("compression", [60, 100])
def test_raw_images_are_signed_and_their_pixels_are_what_they_were(
    client: TestClient, plain: TestClient, read: Any, image_format: str, compression: int
) -> None:
    body = {**ASK, "output_format": image_format, "output_compression": compression}
    headers = {"accept": f"image/{image_format}"}
    signed = client.post("/v1/generate", json=body, headers=headers)
    bare = plain.post("/v1/generate", json=body, headers=headers)
    assert signed.headers["content-type"] == bare.headers["content-type"]
    assert_generated(read(signed.content), image_format)
    assert pixels(signed.content) == pixels(bare.content)
    assert read(bare.content).manifest.verdict == "absent"


def test_images_in_json_are_signed_one_by_one(
    client: TestClient, plain: TestClient, read: Any
) -> None:
    body = {**ASK, "n": 3}
    signed = images_of(client.post("/v1/generate", json=body))
    bare = images_of(plain.post("/v1/generate", json=body))
    assert [pixels(one) for one in signed] == [pixels(one) for one in bare]
    for place, one in enumerate(signed):
        found = read(one)
        assert_generated(found)
        assert found.parameters["seed"] == 7 + place


def test_final_images_of_streams_are_signed_and_previews_are_not(
    client: TestClient, read: Any
) -> None:
    body = {**ASK, "steps": 4, "n": 2, "preview_every": 1, "response": "stream"}
    events = events_of(client.post("/v1/generate", json=body).text)
    finals = [base64.b64decode(data["b64_json"]) for name, data in events if name == "image"]
    previews = [base64.b64decode(data["b64_json"]) for name, data in events if name == "preview"]
    assert len(finals) == 2
    for one in finals:
        assert_generated(read(one))
    assert previews
    assert {read(one).manifest.verdict for one in previews} == {"absent"}
    assert events[-1][1]["timings"]["encode"] > 0


def test_openai_and_hugging_face_answers_are_signed(client: TestClient, read: Any) -> None:
    body = {**ASK, "prompt": "red"}
    for one in images_of(client.post("/v1/images/generations", json={**body, "n": 2})):
        assert_generated(read(one))
    stream = client.post("/v1/images/generations", json={**body, "stream": True})
    ((_, done),) = [e for e in events_of(stream.text) if e[0].endswith("completed")]
    assert_generated(read(base64.b64decode(done["b64_json"])))
    url = client.post("/v1/images/generations", json={**body, "response_format": "url"})
    _, _, data = url.json()["data"][0]["url"].partition("base64,")
    assert_generated(read(base64.b64decode(data)))
    raw = client.post("/hf/tiny-diffusion/text-to-image", json={"inputs": "red"})
    assert_generated(read(raw.content))


def test_an_edit_names_its_image_as_what_it_was_made_from(client: TestClient, read: Any) -> None:
    body = {**ASK, "operation": "variation", "strength": 0.5}
    text = base64.b64encode(picture("JPEG")).decode()
    (made,) = images_of(client.post("/v1/edit", json={**body, "image": text}))
    found = read(made)
    assert found.manifest.verdict == "trusted"
    assert found.manifest.actions == ("c2pa.opened", "c2pa.edited")
    assert found.manifest.source_types == (COMPOSED,)
    assert found.source_type == COMPOSED
    (source,) = found.manifest.ingredients
    assert (source.relationship, source.manifest, source.problems) == ("parentOf", False, ())


def test_an_edit_of_our_own_image_keeps_the_chain(client: TestClient, read: Any) -> None:
    body = {**ASK, "operation": "variation", "strength": 0.5}
    (first,) = images_of(client.post("/v1/generate", json=ASK))
    again = {**body, "image": base64.b64encode(first).decode()}
    (second,) = images_of(client.post("/v1/edit", json=again))
    (source,) = read(second).manifest.ingredients
    assert (source.relationship, source.manifest, source.problems) == ("parentOf", True, ())


def test_every_image_of_a_row_per_image_names_its_own(client: TestClient, read: Any) -> None:
    (ours,) = images_of(client.post("/v1/generate", json=ASK))
    files = [base64.b64encode(one).decode() for one in (ours, picture())]
    body = {"model": "tiny-vae", "operation": "reconstruct", "images": files, "seed": 1}
    made = [read(one).manifest for one in images_of(client.post("/v1/edit", json=body))]
    assert [[one.manifest for one in each.ingredients] for each in made] == [[True], [False]]


def test_what_lies_between_two_images_names_both(client: TestClient, read: Any) -> None:
    files = [base64.b64encode(picture(size=size)).decode() for size in (16, 24)]
    body = {"model": "tiny-vae", "operation": "interpolate", "images": files, "n": 2, "seed": 1}
    for one in images_of(client.post("/v1/edit", json=body)):
        manifest = read(one).manifest
        assert manifest.verdict == "trusted"
        assert manifest.actions == ("c2pa.opened", "c2pa.placed", "c2pa.edited")
        assert [s.relationship for s in manifest.ingredients] == ["parentOf", "componentOf"]


def test_tensors_carry_no_manifest_and_are_what_they_were(
    client: TestClient, plain: TestClient
) -> None:
    body = {"inputs": [{"name": "seed", "shape": [1], "datatype": "INT64", "data": [7]}]}
    route = "/v2/models/tiny-gan/infer"
    outputs = [c.post(route, json=body).json()["outputs"] for c in (client, plain)]
    assert outputs[0] == outputs[1]


def test_values_without_images_pass_untouched(client: TestClient, plain: TestClient) -> None:
    text = base64.b64encode(picture()).decode()
    body = {"model": "tiny-vae", "images": [text], "seed": 1}
    for route in ("likelihood", "encode"):
        answers = [c.post(f"/v1/{route}", json=body).json()["data"] for c in (client, plain)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_changed_byte_is_noticed(client: TestClient, read: Any, image_format: str) -> None:
    headers = {"accept": f"image/{image_format}"}
    data = client.post("/v1/generate", json=ASK, headers=headers).content
    coded = {"png": b"IDAT", "jpeg": b"\xff\xda", "webp": b"VP8L"}[image_format]
    # The coded pixels; what the file says in the open; what the manifest says; who signed it.
    for part in (coded, b"Iptc4xmpExt:Dig", b"org.atelier.gen", b"Atelier development signer"):
        place = data.index(part) + len(part) + 20
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        found = read(changed).manifest
        assert found.verdict == "invalid", part
        assert found.problems


def test_status_says_whether_images_are_signed(client: TestClient, plain: TestClient) -> None:
    told = client.get("/v1/status").json()["provenance"]
    assert (told["enabled"], told["certificate"]) == (True, "development")
    assert "untrusted" in told["note"]
    assert plain.get("/v1/status").json()["provenance"]["enabled"] is False


def test_the_manifest_names_the_model_and_no_prompt(
    connect: Callable[..., TestClient], engines: Any, read: Any
) -> None:
    body = {"model": "tiny-gan", "label": 1, "seed": 3}
    told = {**ASK, "prompt": "red square"}
    (made,) = images_of(connect().post("/v1/generate", json=body))
    generation = read(made).manifest.generation
    digest = engines.registry.find("tiny-gan").fingerprint
    assert generation["models"] == [{"id": "tiny-gan", "sha256": digest}]
    assert (generation["model"], generation["task"]) == ("tiny-gan", "generate")
    answer = connect().post("/v1/generate", json={**told, "metadata": False})
    (made,) = images_of(answer)
    assert b"red square" not in made
    answer = connect(prompt_in_manifest=True).post("/v1/generate", json=told)
    assert read(images_of(answer)[0]).manifest.generation["prompt"] == "red square"
