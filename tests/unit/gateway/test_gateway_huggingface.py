"""The unmodified ``InferenceClient`` of ``huggingface_hub`` passes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

MODEL = "http://testserver/hf/tiny-diffusion"


@pytest.fixture
def speak() -> Iterator[Any]:
    """Lets the client speak with an application in this process in place of a server."""

    def over(connection: Any, url: str, **options: Any) -> huggingface_hub.InferenceClient:
        huggingface_hub.set_client_factory(lambda: connection)
        return huggingface_hub.InferenceClient(url, **options)

    yield over
    huggingface_hub.close_session()
    huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


@pytest.fixture
def text_to_image(speak: Any, tiny: Any) -> Any:
    return speak(tiny, f"{MODEL}/text-to-image").text_to_image


@pytest.fixture
def image_to_image(speak: Any, tiny: Any) -> Any:
    return speak(tiny, f"{MODEL}/image-to-image").image_to_image


def native(tiny: Any, path: str = "/v1/generate", **fields: Any) -> Any:
    answer = tiny.post(path, json={"model": "tiny-diffusion", **fields})
    assert answer.status_code == 200, answer.text
    return pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def picture(side: int = 8) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def test_a_prompt_becomes_the_image_of_the_native_route(tiny: Any, text_to_image: Any) -> None:
    image = text_to_image("red", seed=3, num_inference_steps=3)
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), native(tiny, prompt="red", seed=3, steps=3))


def test_every_parameter_of_the_client_is_heeded(tiny: Any, text_to_image: Any) -> None:
    image = text_to_image(
        "red",
        negative_prompt="blue",
        width=8,
        height=8,
        num_inference_steps=4,
        guidance_scale=2.5,
        scheduler="EulerAncestralDiscreteScheduler",
        seed=3,
    )
    expected = native(
        tiny,
        prompt="red",
        negative_prompt="blue",
        steps=4,
        guidance_scale=2.5,
        sampler="euler_ancestral",
        seed=3,
    )
    assert np.array_equal(np.asarray(image), expected)
    assert not np.array_equal(np.asarray(image), native(tiny, prompt="red", seed=3, steps=4))


def test_base_url_is_the_models_url(tiny: Any, speak: Any) -> None:
    client = speak(tiny, None, base_url=f"{MODEL}/text-to-image")
    assert client.text_to_image("red", seed=1, num_inference_steps=2).size == (8, 8)


def test_an_image_alone_is_sent_as_it_is(tiny: Any, image_to_image: Any) -> None:
    first = image_to_image(picture())
    assert first.size == (8, 8)


def test_an_image_with_parameters(tiny: Any, image_to_image: Any) -> None:
    image = image_to_image(
        picture(), "red", num_inference_steps=4, strength=0.5, seed=2, target_size=None
    )
    body = {"image": base64.b64encode(picture()).decode(), "operation": "variation"}
    expected = native(tiny, "/v1/edit", **body, prompt="red", steps=4, strength=0.5, seed=2)
    assert np.array_equal(np.asarray(image), expected)


def test_an_image_as_a_path(image_to_image: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    image = image_to_image(tmp_path / "a.png", "red", seed=2, num_inference_steps=2)
    assert np.array_equal(
        np.asarray(image),
        np.asarray(image_to_image(picture(), "red", seed=2, num_inference_steps=2)),
    )


@pytest.mark.parametrize("model", ["tiny-vae", "tiny-super_resolution"])
def test_models_without_variation_do_what_they_can(tiny: Any, speak: Any, model: str) -> None:
    client = speak(tiny, f"http://testserver/hf/{model}/image-to-image")
    size = tiny.get(f"/v1/models/{model}").json()["resolution"]
    image = client.image_to_image(picture(size[0]), seed=1)
    assert min(image.size) >= 4


def test_models_of_labels_take_the_label_that_the_prompt_names(tiny: Any, speak: Any) -> None:
    client = speak(tiny, "http://testserver/hf/tiny-gan/text-to-image")
    image = client.text_to_image("something blue", seed=1)
    expected = native(tiny, model="tiny-gan", label="blue", seed=1)
    assert np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"width": 512}, 422, "8x8"),
        ({"height": 512, "width": 512}, 422, "8x8"),
        ({"scheduler": "NoScheduler"}, 422, "EulerDiscreteScheduler"),
        ({"num_inference_steps": 0}, 422, "num_inference_steps"),
        ({"guidance_scale": -1.0}, 422, "guidance_scale"),
        ({"seed": -1}, 422, "seed"),
        ({"num_inference_steps": 5000}, 422, "1000"),
        ({"negative_prompt": "a" * 3000}, 413, "2000"),
    ],
)
def test_what_is_wrong_is_said_in_the_clients_error(
    text_to_image: Any, asked: Any, status: int, said: str
) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        text_to_image("red", **asked)
    assert caught.value.response.status_code == status
    error = caught.value.response.json()["error"]
    assert isinstance(error, str)
    assert said in error


def test_an_unknown_model_is_named_with_near_ones(connect: Any, speak: Any) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        speak(connect(), "http://testserver/hf/shapes-ldn/text-to-image").text_to_image("red")
    assert caught.value.response.status_code == 404
    assert "shapes-ldm" in caught.value.response.json()["error"]


def test_a_model_without_edits_refuses_with_the_reason(tiny: Any, speak: Any) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        speak(tiny, "http://testserver/hf/tiny-gan/image-to-image").image_to_image(picture())
    assert caught.value.response.status_code == 422
    assert "tiny-diffusion" in caught.value.response.json()["error"]


def test_what_is_no_image_is_refused(tiny: Any, image_to_image: Any) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        image_to_image(b"GIF89a and no more")
    assert caught.value.response.status_code == 415
    answer = tiny.post(
        "/hf/tiny-diffusion/image-to-image", content=b"x", headers={"content-type": "text/plain"}
    )
    assert (answer.status_code, list(answer.json())) == (415, ["error"])


def test_another_format_may_be_accepted(tiny: Any) -> None:
    answer = tiny.post(
        "/hf/tiny-gan/text-to-image",
        json={"inputs": "blue"},
        headers={"accept": "image/webp, image/*;q=0.5"},
    )
    assert answer.headers["content-type"] == "image/webp"
    assert answer.content[8:12] == b"WEBP"


def test_the_token_is_the_key(connect: Any, speak: Any) -> None:
    client = speak(
        connect(api_keys=["0" * 64]),
        "http://testserver/hf/shapes-ldm/text-to-image",
        token="not-the-key",
    )
    with pytest.raises(HfHubHTTPError) as caught:
        client.text_to_image("red")
    assert caught.value.response.status_code == 401
