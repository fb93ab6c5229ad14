"""Edits and variations, as the unmodified openai client asks for them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

MODEL = "tiny-diffusion"


@pytest.fixture
def client(tiny: Any) -> openai.OpenAI:
    return openai.OpenAI(
        api_key="any", base_url="http://testserver/v1", http_client=tiny, max_retries=0
    )


def picture(value: int | None = None) -> bytes:
    stream = io.BytesIO()
    array = np.random.default_rng(5).integers(0, 256, (8, 8, 3), np.uint8)
    if value is not None:
        array[:] = value
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def right_half(transparent: bool) -> bytes:
    """Marks the right half: by alpha 0 on black, or by white."""
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    if transparent:
        alpha = np.stack([np.zeros_like(half)] * 3 + [255 - half], -1)
        image = Image.fromarray(alpha)
    else:
        image = Image.fromarray(half)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(image: Any) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


def native(tiny: Any, operation: str, **fields: Any) -> list[Any]:
    body = {"model": MODEL, "operation": operation, **fields}
    answer = tiny.post("/v1/edit", json=body)
    assert answer.status_code == 200, answer.text
    found = [base64.b64decode(entry["b64_json"]) for entry in answer.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(data))) for data in found]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("transparent", [True, False])
def test_a_mask_marks_what_is_made_anew(
    client: openai.OpenAI, tiny: Any, transparent: bool
) -> None:
    answer = client.images.edit(
        model=MODEL,
        image=("a.png", picture()),
        mask=("m.png", right_half(transparent)),
        prompt="red",
        n=2,
        extra_body={"seed": 3, "steps": 4},
    )
    assert answer.data is not None
    expected = native(
        tiny,
        "inpaint",
        image=text(picture()),
        mask=text(right_half(False)),
        prompt="red",
        n=2,
        seed=3,
        steps=4,
    )
    assert [np.array_equal(pixels(a), b) for a, b in zip(answer.data, expected, strict=True)] == [
        True,
        True,
    ]


def test_without_a_mask_all_of_it_is_changed(client: openai.OpenAI, tiny: Any) -> None:
    answer = client.images.edit(
        model=MODEL,
        image=picture(),
        prompt="red",
        size="auto",
        quality="high",
        background="auto",
        extra_body={"seed": 3, "steps": 4, "strength": 0.5},
    )
    assert answer.data is not None
    (expected,) = native(
        tiny, "variation", image=text(picture()), prompt="red", seed=3, steps=4, strength=0.5
    )
    assert np.array_equal(pixels(answer.data[0]), expected)


def test_a_list_of_one_image(client: openai.OpenAI) -> None:
    answer = client.images.edit(
        model=MODEL, image=[picture()], prompt="red", extra_body={"steps": 2}
    )
    assert answer.data is not None
    assert len(answer.data) == 1


def test_several_images_are_all_read_and_refused_by_models_that_take_one(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="2"):
        client.images.edit(model=MODEL, image=[picture(), picture()], prompt="red")


def test_variations(client: openai.OpenAI, tiny: Any) -> None:
    answer = client.images.create_variation(  # type: ignore[deprecated]
        model=MODEL, image=picture(), n=2, user="someone", extra_body={"seed": 9, "steps": 3}
    )
    assert answer.data is not None
    expected = native(tiny, "variation", image=text(picture()), n=2, seed=9, steps=3)
    assert all(np.array_equal(pixels(a), b) for a, b in zip(answer.data, expected, strict=True))


def test_an_edit_streams_its_previews(client: openai.OpenAI, tiny: Any) -> None:
    told = list(
        client.images.edit(
            model=MODEL,
            image=picture(),
            mask=right_half(True),
            prompt="red",
            stream=True,
            partial_images=2,
            extra_body={"seed": 3, "steps": 12},
        )
    )
    assert [event.type for event in told] == [
        "image_edit.partial_image",
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    (expected,) = native(
        tiny,
        "inpaint",
        image=text(picture()),
        mask=text(right_half(False)),
        prompt="red",
        seed=3,
        steps=12,
    )
    assert np.array_equal(pixels(told[-1]), expected)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.edit(model="tiny-difusion", image=picture(), prompt="red")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as unable:
        client.images.edit(model="tiny-gan", image=picture(), prompt="red")
    assert unable.value.code == "unsupported_task"
    with pytest.raises(openai.UnprocessableEntityError) as size:
        client.images.edit(model=MODEL, image=picture(), prompt="red", size="1024x1024")
    assert size.value.param == "size"
    with pytest.raises(openai.UnprocessableEntityError, match="marks nothing"):
        client.images.edit(model=MODEL, image=picture(), mask=picture(0), prompt="red")
    with pytest.raises(openai.APIStatusError) as media:
        client.images.edit(model=MODEL, image=b"GIF89a", prompt="red")
    assert media.value.status_code == 415


def test_an_image_is_needed(tiny: Any) -> None:
    body = {"model": MODEL, "prompt": "red"}
    answer = tiny.post("/v1/images/edits", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "image"
