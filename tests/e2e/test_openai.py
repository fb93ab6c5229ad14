"""The unmodified ``openai`` client."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from PIL import Image

from tests.e2e.asks import pixels, png, raw
from tests.e2e.running import Server

MODEL = "shapes-ldm"


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def draw(client: openai.OpenAI, seed: int) -> list[bytes]:
    answer = client.images.generate(
        model=MODEL,
        prompt="a large red star on black",
        n=2,
        response_format="b64_json",
        extra_body={"seed": seed, "steps": 4},
    )
    assert answer.data is not None
    return [base64.b64decode(image.b64_json or "") for image in answer.data]


def test_the_same_seed_gives_the_same_pixels_and_another_one_others(client: openai.OpenAI):
    drawn = [draw(client, seed) for seed in (7, 7, 70)]
    first, second, other = ([raw(image) for image in images] for images in drawn)
    assert first == second
    assert set(first).isdisjoint(other)
    assert all(pixels(image).shape[2] == 3 for image in drawn[0])


def test_the_catalog_is_listed_and_described(client: openai.OpenAI):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_an_unknown_model_is_its_not_found_error(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="shapes-ldn", prompt="a red star")
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message


def test_a_bad_parameter_is_its_unprocessable_entity_error(client: openai.OpenAI):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.generate(model=MODEL, prompt="a red star", extra_body={"steps": 0})
    assert caught.value.param == "steps"


def test_a_deadline_that_cannot_be_met_is_its_server_error(client: openai.OpenAI):
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(
            model=MODEL, prompt="a red star", n=8, extra_body={"steps": 1000, "deadline": 0.2}
        )
    assert caught.value.code == "deadline_unmeetable"


def test_an_edit_makes_anew_what_the_mask_marks(client: openai.OpenAI):
    given = png(1, 32)
    answer = client.images.edit(
        model=MODEL,
        image=("image.png", given),
        mask=("mask.png", transparent_right(32)),
        prompt="a large red star on black",
        extra_body={"seed": 7, "steps": 4},
    )
    assert answer.data is not None
    (entry,) = answer.data
    made, kept = pixels(base64.b64decode(entry.b64_json or "")), pixels(given)
    left = np.abs(made[:, :16].astype(int) - kept[:, :16]).mean()
    right = np.abs(made[:, 16:].astype(int) - kept[:, 16:]).mean()
    assert left < right / 2


def test_a_variation_and_a_list_of_images(client: openai.OpenAI):
    varied = client.images.create_variation(  # type: ignore[deprecated]  # still in the client
        model=MODEL, image=png(1, 32), n=2, extra_body={"seed": 7, "steps": 4}
    )
    assert varied.data is not None
    assert len({raw(base64.b64decode(image.b64_json or "")) for image in varied.data}) == 2
    listed = client.images.edit(
        model=MODEL, image=[png(1, 32)], prompt="a red star", extra_body={"steps": 2}
    )
    assert listed.data is not None
    with pytest.raises(openai.UnprocessableEntityError):
        client.images.edit(model=MODEL, image=[png(1, 32), png(2, 32)], prompt="a red star")


def test_an_edit_streams_its_previews(client: openai.OpenAI):
    told = list(
        client.images.edit(
            model=MODEL,
            image=png(1, 32),
            prompt="a red star",
            stream=True,
            partial_images=2,
            extra_body={"seed": 3, "steps": 20, "strength": 1.0},
        )
    )
    assert [event.type for event in told] == [
        "image_edit.partial_image",
        "image_edit.partial_image",
        "image_edit.completed",
    ]


def transparent_right(side: int) -> bytes:
    """A mask as OpenAI means it: what is transparent is made anew."""
    image = np.full((side, side, 4), 255, np.uint8)
    image[:, side // 2 :, 3] = 0
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()
