"""The unmodified ``openai`` client."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.asks import pixels
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


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(client: openai.OpenAI):
    first, second, other = draw(client, 7), draw(client, 7), draw(client, 70)
    assert first == second
    assert set(first).isdisjoint(other)
    assert all(pixels(image).shape[2] == 3 for image in first)


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
