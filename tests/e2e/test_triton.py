"""The unmodified Triton client, over KServe v2."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.e2e.asks import pixels, png
from tests.e2e.running import REQUEST_SECONDS, Server

GAN, VAE, FLOW, LDM = "shapes-cgan", "shapes-vae", "digits-realnvp", "shapes-ldm"
LATENTS = 64


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    url = server.url.removeprefix("http://")
    made = triton.InferenceServerClient(
        url, concurrency=4, connection_timeout=REQUEST_SECONDS, network_timeout=REQUEST_SECONDS
    )
    yield made
    made.close()


def tensor(name: str, values: Any, kind: str, *, binary: bool = True) -> triton.InferInput:
    array = np.array(values, dtype=triton.triton_to_np_dtype(kind))
    given = triton.InferInput(name, list(array.shape), kind)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def native(server: Server, path: str = "/v1/generate", **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.post(path, body).raise_for_status().json()["data"]
    return found


def shown(entry: dict[str, Any]) -> Any:
    image = pixels(base64.b64decode(entry["b64_json"]))
    return image if image.ndim == 3 else image[..., None]


def test_server_and_models_describe_themselves(client: triton.InferenceServerClient):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(GAN)
    assert client.is_model_ready(GAN, "1")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(GAN)
    assert metadata["name"] == GAN
    assert {tensor["name"] for tensor in metadata["inputs"]} >= {"latents", "label", "seed"}


@pytest.mark.parametrize("binary", [True, False])
def test_latents_and_labels_become_images(
    server: Server, client: triton.InferenceServerClient, binary: bool
):
    latents = np.random.default_rng(1).standard_normal((2, LATENTS)).astype(np.float32)
    result = client.infer(
        GAN,
        [
            tensor("latents", latents, "FP32", binary=binary),
            tensor("label", [1, 4], "INT64", binary=binary),
        ],
        outputs=[triton.InferRequestedOutput("image", binary_data=binary)],
    )
    images = result.as_numpy("image")
    assert images.shape == (2, 32, 32, 3)
    for row, label in enumerate((1, 4)):
        wire = {"data": base64.b64encode(latents[row].tobytes()).decode(), "shape": [LATENTS]}
        (alone,) = native(server, model=GAN, latents=wire, label=label)
        assert np.array_equal(images[row], shown(alone))


@pytest.mark.parametrize(("model", "channels"), [(VAE, 3), (FLOW, 1)])
def test_images_have_their_likelihood(
    server: Server, client: triton.InferenceServerClient, model: str, channels: int
):
    side = server.models()[model]["resolution"][0]
    files = [png(seed, side) for seed in (1, 2)]
    images = np.stack([pixels(file) for file in files])
    if channels == 1:
        images = images[..., :1]
    result = client.infer(model, [tensor("image", images, "UINT8")], parameters={"seed": 3})
    bits = result.as_numpy("bits_per_dim")
    assert bits.shape == (2,)
    if channels == 3:
        sent = [base64.b64encode(file).decode() for file in files]
        expected = native(server, "/v1/likelihood", model=model, images=sent, seed=3)
        assert bits.tolist() == [entry["bits_per_dim"] for entry in expected]
        found = result.as_numpy("log_likelihood").tolist()
        assert found == [entry["log_likelihood"] for entry in expected]


def test_prompts_and_seeds_become_the_images_of_the_native_route(
    server: Server, client: triton.InferenceServerClient
):
    prompts = [b"a large red star on black", b"a small blue circle on white"]
    result = client.infer(
        LDM,
        [tensor("prompt", prompts, "BYTES"), tensor("seed", [7, 70], "INT64")],
        parameters={"steps": 4, "sampler": "ddim"},
        request_id="mine",
    )
    assert result.get_response()["id"] == "mine"
    for image, prompt, seed in zip(result.as_numpy("image"), prompts, (7, 70), strict=True):
        asked = {"prompt": prompt.decode(), "seed": seed, "steps": 4, "sampler": "ddim"}
        (alone,) = native(server, model=LDM, **asked)
        assert np.array_equal(image, shown(alone))


def test_requests_in_flight_together(client: triton.InferenceServerClient):
    asked = [client.async_infer(GAN, [tensor("seed", [seed], "INT64")]) for seed in range(4)]
    images = [request.get_result().as_numpy("image") for request in asked]
    assert len({image.tobytes() for image in images}) == 4


def test_refusals_are_its_exception_and_the_next_request_is_served(
    client: triton.InferenceServerClient,
):
    seed = tensor("seed", [7], "INT64")
    for model, inputs, status, said in (
        ("shapes-cgam", [seed], "404", GAN),
        (GAN, [tensor("label", [99], "INT64")], "422", "label"),
        (GAN, [tensor("sead", [1], "INT64")], "422", "seed"),
        (GAN, [tensor("seed", [7.0], "FP32")], "422", "INT64"),
        (GAN, [tensor("seed", [7] * 65, "INT64")], "413", "64"),
    ):
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer(model, inputs)
        assert caught.value.status() == status
        assert said in caught.value.message()
    wanted = [triton.InferRequestedOutput("log_likelihood")]
    with pytest.raises(triton.InferenceServerException, match="density"):
        client.infer(GAN, [seed], outputs=wanted)
    assert client.infer(GAN, [seed]).as_numpy("image").shape == (1, 32, 32, 3)
