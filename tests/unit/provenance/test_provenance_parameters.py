"""What a file says in the open: its digital source type, and how to make it again."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import ExifTags, Image
from starlette.testclient import TestClient

from services.core.job import Task
from services.provenance.record import GENERATED, MOST_PARAMETER_BYTES, Record
from tests.unit.provenance.conftest import picture, pixels
from tests.unit.provenance.test_provenance_routes import ASK, images_of

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
FORMATS = ("png", "jpeg", "webp")


def xmp_of(image: Image.Image) -> ElementTree.Element:
    packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    return ElementTree.fromstring(packet)  # noqa: S314 - our own file


def text_of(image: Image.Image) -> str:
    """Where other programs look: a PNG's text, else the EXIF user comment."""
    if image.format == "PNG":
        return str(image.info["parameters"])
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment[:8] == b"ASCII\0\0\0"
    return comment[8:].decode("ascii")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("image_format", FORMATS)
def test_other_programs_find_source_type_and_parameters(
    client: TestClient, image_format: str
) -> None:
    body = {**ASK, "prompt": "red square", "output_format": image_format}
    image = opened(images_of(client.post("/v1/generate", json=body))[0])
    (description,) = xmp_of(image).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.attrib[IPTC] == GENERATED
    told = json.loads(text_of(image))
    assert told["request"] == {**ASK, "prompt": "red square"}
    assert (told["model"], told["task"], told["seed"]) == ("tiny-diffusion", "generate", 7)
    assert told["software"].startswith("Atelier ")
    assert told["model_sha256"]
    if image_format != "png":
        assert image.getexif()[ExifTags.Base.Software] == told["software"]


@pytest.mark.parametrize("image_format", FORMATS)
def test_without_metadata_only_the_source_type_is_there(
    client: TestClient, read: Any, image_format: str
) -> None:
    body = {**ASK, "prompt": "red square", "metadata": False, "output_format": image_format}
    (data,) = images_of(client.post("/v1/generate", json=body))
    found = read(data)
    assert (found.parameters, found.source_type) == (None, GENERATED)
    assert found.manifest.verdict == "trusted"
    assert b"red square" not in data


def test_every_api_lets_its_clients_choose(client: TestClient, read: Any) -> None:
    openai = {**ASK, "prompt": "red", "metadata": False}
    form = {**{name: str(value) for name, value in ASK.items()}, "metadata": "false"}
    edit = {**form, "operation": "variation"}
    hugging_face = {"inputs": "red", "parameters": {"seed": 7, "metadata": False}}
    answers = [
        *images_of(client.post("/v1/images/generations", json=openai)),
        *images_of(client.post("/v1/edit", data=edit, files={"image": picture()})),
        client.post("/hf/tiny-diffusion/text-to-image", json=hugging_face).content,
    ]
    assert [read(one).parameters for one in answers] == [None] * 3


def test_the_operator_chooses_for_those_who_do_not_say(
    connect: Callable[..., TestClient], read: Any
) -> None:
    reserved = connect(metadata=False)
    (silent,) = images_of(reserved.post("/v1/generate", json=ASK))
    (asked,) = images_of(reserved.post("/v1/generate", json={**ASK, "metadata": True}))
    assert read(silent).parameters is None
    assert read(asked).parameters["request"] == ASK


def test_what_the_file_says_makes_the_image_again(client: TestClient, read: Any) -> None:
    made = images_of(client.post("/v1/generate", json={**ASK, "n": 3, "prompt": "blue square"}))
    for one in made:
        (again,) = images_of(client.post("/v1/generate", json=read(one).parameters["request"]))
        assert pixels(again) == pixels(one)
    body = {"model": "tiny-vae", "operation": "interpolate", "seeds": [3, 8], "n": 3, "seed": 1}
    made = images_of(client.post("/v1/edit", json=body))
    for one in made:
        told = read(one).parameters
        again = images_of(client.post("/v1/edit", json=told["request"]))
        assert pixels(again[told["index"]]) == pixels(one)


def test_an_edit_is_made_again_with_its_image(client: TestClient, read: Any) -> None:
    image = {"image": base64.b64encode(picture()).decode()}
    body = {**ASK, "operation": "variation", "strength": 0.5, **image}
    (made,) = images_of(client.post("/v1/edit", json=body))
    told = read(made).parameters["request"]
    assert "image" not in told
    (again,) = images_of(client.post("/v1/edit", json={**told, **image}))
    assert pixels(again) == pixels(made)


def test_what_is_too_large_for_a_file_is_named_in_it() -> None:
    latents = {"data": "A" * (2 * MOST_PARAMETER_BYTES), "shape": [1]}
    parameters = {"seed": 3, "prompt": "a", "latents": latents}
    record = Record("m", {"m": "d" * 64}, Task.GENERATE, None, 0, parameters, {"seed": 3})
    told = json.loads(record.for_the_file())
    assert told["omitted"] == ["latents"]
    assert told["request"] == {"model": "m", "seed": 3, "prompt": "a"}


def test_the_text_in_a_file_is_ascii_whatever_the_prompt() -> None:
    prompt = 'ein "roter" Stern \u2605\n\x00</x:xmpmeta> \U0001f600'
    record = Record("m", {}, Task.GENERATE, None, 0, {"prompt": prompt}, {})
    text = record.for_the_file()
    assert text.isascii()
    assert "\n" not in text
    assert "\0" not in text
    assert json.loads(text)["request"]["prompt"] == prompt
