"""KServe v2 with the binary tensor extension: the unmodified Triton client reads and writes it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

GAN, VAE, FLOW, DIFFUSION = "tiny-gan", "tiny-vae", "tiny-flow", "tiny-diffusion"


def tensor(name: str, values: Any, kind: str, *, binary: bool = True) -> triton.InferInput:
    array = np.array(values, dtype=triton.triton_to_np_dtype(kind))
    given = triton.InferInput(name, list(array.shape), kind)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def infer(
    client: Any,
    model: str,
    *inputs: triton.InferInput,
    outputs: list[triton.InferRequestedOutput] | None = None,
    **parameters: Any,
) -> triton.InferResult:
    """As `InferenceServerClient.infer`, over a client in this process."""
    body, length = triton.InferenceServerClient.generate_request_body(
        list(inputs), outputs=outputs, parameters=parameters, request_id="mine"
    )
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    answer = client.post(f"/v2/models/{model}/infer", content=bytes(body), headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.headers.get("inference-header-content-length")
    length = None if found is None else int(found)
    return triton.InferenceServerClient.parse_response_body(answer.content, header_length=length)


def native(client: Any, model: str, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/generate", json={"model": model, **fields})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def pixels(entry: dict[str, Any]) -> Any:
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))))
    return image if image.ndim == 3 else image[..., None]


def test_the_server_says_what_it_is(client: Any) -> None:
    body = client.get("/v2").json()
    assert body["name"] == "atelier"
    assert "binary_tensor_data" in body["extensions"]


def test_health_is_exactly_200_and_asks_for_no_key(connect: Any, backend: Any) -> None:
    client = connect(api_keys=["0" * 64])
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/shapes-ldm/ready").status_code == 401
    backend.is_ready = False
    answer = client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert isinstance(answer.json()["error"], str)


def test_a_model_is_ready_when_work_would_be_taken(client: Any, backend: Any) -> None:
    assert client.get("/v2/models/shapes-ldm/ready").status_code == 200
    assert client.get("/v2/models/shapes-ldm/versions/1/ready").status_code == 200
    assert client.get("/v2/models/shapes-ldm/versions/2/ready").status_code == 404
    backend.is_ready = False
    assert client.get("/v2/models/shapes-ldm/ready").status_code == 503


@pytest.mark.parametrize("model", [GAN, VAE, FLOW, DIFFUSION])
def test_metadata_names_the_tensors_of_a_model(tiny: Any, model: str) -> None:
    body = tiny.get(f"/v2/models/{model}").json()
    inputs = {one["name"]: one for one in body["inputs"]}
    outputs = {one["name"]: one for one in body["outputs"]}
    assert body["versions"] == ["1"]
    assert inputs["latents"] == {"name": "latents", "datatype": "FP32", "shape": [-1, -1]}
    assert ("label" in inputs) == (model == GAN)
    assert ("prompt" in inputs) == (model == DIFFUSION)
    assert ("image" in inputs) == (model != GAN)
    assert ("log_likelihood" in outputs) == (model != GAN)
    assert outputs["image"]["datatype"] == "UINT8"


@pytest.mark.parametrize("binary", [True, False])
def test_latents_and_labels_become_images(tiny: Any, binary: bool) -> None:
    latents = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    result = infer(
        tiny,
        GAN,
        tensor("latents", latents, "FP32", binary=binary),
        tensor("label", [0, 1, 2], "INT64", binary=binary),
        outputs=[triton.InferRequestedOutput("image", binary_data=binary)],
    )
    images = result.as_numpy("image")
    assert images.shape == (3, 8, 8, 3)
    assert images.dtype == np.uint8
    assert result.get_response()["id"] == "mine"
    for row, image in enumerate(images):
        wire = {"data": base64.b64encode(latents[row].tobytes()).decode(), "shape": [4]}
        (alone,) = native(tiny, GAN, latents=wire, label=row)
        assert np.array_equal(image, pixels(alone))


def test_a_row_that_names_its_label_by_word(tiny: Any) -> None:
    by_name = infer(tiny, GAN, tensor("label_name", [b"blue"], "BYTES"), seed=3)
    by_number = infer(tiny, GAN, tensor("label", [2], "INT64"), seed=3)
    assert np.array_equal(by_name.as_numpy("image"), by_number.as_numpy("image"))


def test_seeds_make_the_images_that_the_native_route_makes(tiny: Any) -> None:
    result = infer(tiny, VAE, tensor("seed", [7, 70], "INT64"))
    assert result.as_numpy("seed").tolist() == [7, 70]
    for image, seed in zip(result.as_numpy("image"), (7, 70), strict=True):
        assert np.array_equal(image, pixels(native(tiny, VAE, seed=seed)[0]))


def test_without_seeds_rows_count_up_from_one_seed(tiny: Any) -> None:
    prompts = tensor("prompt", [b"red", b"red"], "BYTES")
    result = infer(tiny, DIFFUSION, prompts, seed=4, steps=3)
    assert result.as_numpy("seed").tolist() == [4, 5]
    drawn = infer(tiny, DIFFUSION, prompts, steps=2).as_numpy("seed")
    assert drawn[1] == drawn[0] + 1


def test_n_makes_several_of_one_row(tiny: Any) -> None:
    result = infer(tiny, FLOW, tensor("seed", [5], "INT64"), n=3)
    expected = native(tiny, FLOW, seed=5, n=3)
    assert [np.array_equal(a, pixels(b)) for a, b in zip(
        result.as_numpy("image"), expected, strict=True
    )] == [True] * 3  # fmt: skip


@pytest.mark.parametrize("model", [VAE, FLOW])
@pytest.mark.parametrize("binary", [True, False])
def test_images_have_the_likelihood_of_the_native_route(
    tiny: Any, model: str, binary: bool
) -> None:
    images = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 1), np.uint8)
    result = infer(
        tiny,
        model,
        tensor("image", images, "UINT8", binary=binary),
        outputs=[
            triton.InferRequestedOutput(name, binary_data=binary)
            for name in ("log_likelihood", "bits_per_dim", "kind")
        ],
        seed=1,
    )
    files = [base64.b64encode(png(image[..., 0])).decode() for image in images]
    body = {"model": model, "images": files, "seed": 1}
    expected = tiny.post("/v1/likelihood", json=body).json()["data"]
    for name in ("log_likelihood", "bits_per_dim"):
        assert result.as_numpy(name).tolist() == [entry[name] for entry in expected]
    kinds = result.as_numpy("kind")
    assert [str(k, "utf8") if isinstance(k, bytes) else k for k in kinds] == [
        entry["kind"] for entry in expected
    ]


def png(gray: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "PNG")
    return stream.getvalue()


def test_files_are_taken_as_bytes_and_images_come_back_from_latents(tiny: Any) -> None:
    image = np.random.default_rng(3).integers(0, 256, (4, 4), np.uint8)
    files = tensor("image_file", [png(image)], "BYTES")
    latents = infer(tiny, FLOW, files, operation="encode").as_numpy("latents")
    again = infer(tiny, FLOW, tensor("latents", latents, "FP32")).as_numpy("image")
    assert np.abs(again[0, ..., 0].astype(int) - image).max() <= 1
    edited = infer(tiny, FLOW, files, operation="reconstruct").as_numpy("image")
    assert np.abs(edited[0, ..., 0].astype(int) - image).max() <= 1


def test_the_error_of_one_row_is_the_answer(tiny: Any) -> None:
    body = {
        "inputs": [{"name": "label", "shape": [2], "datatype": "INT64", "data": [0, 9]}],
    }
    answer = tiny.post(f"/v2/models/{GAN}/infer", json=body)
    assert answer.status_code == 422
    assert "label" in answer.json()["error"]


def test_a_task_that_a_model_lacks_is_refused_with_the_reason(tiny: Any) -> None:
    wanted = {"inputs": [], "outputs": [{"name": "log_likelihood"}]}
    answer = tiny.post(f"/v2/models/{GAN}/infer", json=wanted)
    assert answer.status_code == 422
    assert "density" in answer.json()["error"]
    assert FLOW in answer.json()["error"]
