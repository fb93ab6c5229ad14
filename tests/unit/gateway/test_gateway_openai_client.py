"""The unmodified openai client passes."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest

from services.core import errors


@pytest.fixture
def speak(connect: Any) -> Any:
    def open_client(**settings: Any) -> openai.OpenAI:
        return openai.OpenAI(
            api_key="any",
            base_url="http://testserver/v1",
            http_client=connect(**settings),
            max_retries=0,
        )

    return open_client


@pytest.fixture
def client(speak: Any) -> openai.OpenAI:
    return speak()


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed][:2] == ["digits-realnvp", "shapes-cgan"]
    one = client.models.retrieve("shapes-ldm")
    assert (one.id, one.object, one.owned_by) == ("shapes-ldm", "model", "atelier")
    assert one.model_extra is not None
    assert one.model_extra["resolution"] == [32, 64]
    assert set(one.model_extra) >= {
        "family",
        "tasks",
        "operations",
        "conditioning",
        "channels",
        "likelihood",
        "limits",
        "card",
        "loaded",
    }


def test_images_are_generated(client: openai.OpenAI, backend: Any) -> None:
    answer = client.images.generate(
        model="shapes-ldm",
        prompt="a large red star on black",
        n=2,
        size="64x32",  # type: ignore[call-overload]
        quality="hd",
        style="vivid",
        user="someone",
        background="auto",
        moderation="low",
        output_format="webp",
        output_compression=80,
        extra_body={"seed": 7, "steps": 20, "guidance_scale": 3, "sampler": "ddim"},
    )
    assert isinstance(answer.created, int)
    assert answer.data is not None
    assert len(answer.data) == 2
    assert base64.b64decode(answer.data[0].b64_json)[8:12] == b"WEBP"
    (call,) = backend.calls
    assert call.parameters == {
        "prompt": "a large red star on black",
        "n": 2,
        "seed": 7,
        "steps": 20,
        "guidance_scale": 3.0,
        "sampler": "ddim",
    }
    assert (call.encoding.format, call.encoding.compression) == ("webp", 80)


def test_model_may_be_left_out(client: openai.OpenAI, backend: Any) -> None:
    client.images.generate(prompt="a star")
    assert backend.calls[0].model == "shapes-ldm"


@pytest.mark.parametrize("size", ["auto", None])
def test_url_is_a_data_url(client: openai.OpenAI, size: Any) -> None:
    answer = client.images.generate(
        prompt="a star", response_format="url", output_format="jpeg", size=size
    )
    assert answer.data is not None
    assert str(answer.data[0].url).startswith("data:image/jpeg;base64,/9j/")
    assert answer.data[0].b64_json is None


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("a Red  Circle, please", "red circle"),
        ("one blue_star", "blue star"),
        ("red circle large!", "red circle large"),
    ],
)
def test_a_label_is_found_in_the_prompt(
    client: openai.OpenAI, backend: Any, prompt: str, label: str
) -> None:
    client.images.generate(model="shapes-cgan", prompt=prompt)
    assert backend.calls[0].parameters["label"] == label
    assert "prompt" not in backend.calls[0].parameters


def test_a_prompt_without_a_label_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="blue star"):
        client.images.generate(model="shapes-cgan", prompt="starblue")


def test_an_unconditional_model_ignores_the_prompt(client: openai.OpenAI, backend: Any) -> None:
    client.images.generate(model="digits-realnvp", prompt="a seven")
    assert set(backend.calls[0].parameters) == {"seed"}


def test_errors_arrive_as_the_clients_own(client: openai.OpenAI, backend: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="shapes-ldm") as unknown:
        client.images.generate(model="shapes-lmd", prompt="a star")
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nonesuch")
    with pytest.raises(openai.UnprocessableEntityError) as size:
        client.images.generate(prompt="a star", size="1024x1024")
    assert size.value.param == "size"
    assert "64x32" in size.value.message
    with pytest.raises(openai.UnprocessableEntityError):
        client.images.generate(prompt="a star", n=1000)
    with pytest.raises(openai.APIStatusError, match="2000"):
        client.images.generate(prompt="a" * 3000)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.QueueFull("full", retry_after=1), openai.RateLimitError),
        (errors.Unavailable("none"), openai.InternalServerError),
        (errors.UnsupportedTask("no"), openai.UnprocessableEntityError),
    ],
)
def test_backend_errors_too(client: openai.OpenAI, backend: Any, error: Any, kind: Any) -> None:
    backend.error = error
    with pytest.raises(kind):
        client.images.generate(prompt="a star")


def test_a_wrong_key_is_an_authentication_error(speak: Any) -> None:
    with pytest.raises(openai.AuthenticationError):
        speak(api_keys=["0" * 64]).models.list()


def test_the_client_does_not_retry_what_cannot_help(speak: Any, backend: Any) -> None:
    backend.error = errors.EngineFailure("broken")
    with pytest.raises(openai.InternalServerError):
        speak().with_options(max_retries=2).images.generate(prompt="a star")
    assert len(backend.calls) == 1
