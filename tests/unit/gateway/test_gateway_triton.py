"""KServe v2 with the binary tensor extension: the unmodified Triton client reads and writes it."""

from __future__ import annotations

import base64
import io
import json
import struct
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


def entry(name: str = "seed", shape: Any = (1,), kind: Any = "INT64", **more: Any) -> Any:
    return {"name": name, "shape": list(shape), "datatype": kind, **more}


def sized(size: Any, **more: Any) -> Any:
    return entry(parameters={"binary_data_size": size}, **more)


EIGHT = struct.pack("<q", 7)
MALFORMED: dict[str, tuple[Any, bytes, int, str]] = {
    "no inputs": ({}, b"", 422, "inputs"),
    "unknown field": ({"inputs": [], "input": 1}, b"", 422, "input"),
    "unknown input": ({"inputs": [entry("sead", data=[1])]}, b"", 422, "seed"),
    "twice": ({"inputs": [entry(data=[1]), entry(data=[1])]}, b"", 422, "twice"),
    "neither values nor bytes": ({"inputs": [entry()]}, b"", 422, "binary_data_size"),
    "both": ({"inputs": [sized(8, data=[7])]}, EIGHT, 422, "not both"),
    "another datatype": ({"inputs": [entry(kind="FP32", data=[1])]}, b"", 422, "INT64"),
    "no such datatype": ({"inputs": [entry(kind="INT3", data=[1])]}, b"", 422, "UINT8"),
    "another rank": ({"inputs": [entry(shape=(1, 1), data=[1])]}, b"", 422, "[-1]"),
    "a negative size": ({"inputs": [entry(shape=(-1,), data=[1])]}, b"", 422, "shape"),
    "no rows": ({"inputs": [entry(shape=(0,), data=[])]}, b"", 422, "empty"),
    "a huge shape": ({"inputs": [entry(shape=[2**24] * 6, data=[1])]}, b"", 422, "needs"),
    "an endless shape": ({"inputs": [entry(shape=[1] * 7, data=[1])]}, b"", 422, "shape"),
    "too few values": ({"inputs": [entry(shape=(2,), data=[1])]}, b"", 422, "needs 2"),
    "a word for a number": ({"inputs": [entry(data=["1"])]}, b"", 422, "INT64"),
    "a fraction": ({"inputs": [entry(data=[1.5])]}, b"", 422, "INT64"),
    "true": ({"inputs": [entry(data=[True])]}, b"", 422, "INT64"),
    "beyond 64 bits": ({"inputs": [entry(data=[2**63])]}, b"", 422, "from"),
    "a negative seed": ({"inputs": [entry(data=[-1])]}, b"", 422, "seed"),
    "too few bytes": ({"inputs": [sized(4)]}, EIGHT[:4], 422, "needs 8"),
    "missing bytes": ({"inputs": [sized(8)]}, EIGHT[:4], 400, "holds 4"),
    "bytes left over": ({"inputs": [sized(8)]}, EIGHT + b"!", 400, "belong to no input"),
    "a negative length": ({"inputs": [sized(-8)]}, EIGHT, 422, "binary_data_size"),
    "a length of true": ({"inputs": [sized(True)]}, EIGHT, 422, "binary_data_size"),
    "shared memory": (
        {"inputs": [entry(parameters={"shared_memory_region": "r"}, data=[1])]},
        b"",
        422,
        "shared memory",
    ),
    "infinite numbers": (
        {"inputs": [entry("latents", (1, 2), "FP32", parameters={"binary_data_size": 8})]},
        struct.pack("<ff", 1.0, float("inf")),
        422,
        "finite",
    ),
    "beyond 32 bits": (
        {"inputs": [entry("latents", (1, 1), "FP32", data=[1e300])]},
        b"",
        422,
        "finite",
    ),
    "a text cut off": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 6})]},
        struct.pack("<I", 9) + b"re",
        422,
        "9 bytes",
    ),
    "a text's length cut off": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 2})]},
        b"\1\0",
        422,
        "length",
    ),
    "more texts than rows": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 8})]},
        bytes(8),
        422,
        "needs 1",
    ),
    "no UTF-8": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 5})]},
        struct.pack("<I", 1) + b"\xff",
        422,
        "UTF-8",
    ),
    "NUL": ({"inputs": [entry("prompt", (1,), "BYTES", data=["\0"])]}, b"", 422, "NUL"),
    "a long prompt": (
        {"inputs": [entry("prompt", (1,), "BYTES", data=["a" * 3000])]},
        b"",
        413,
        "2000",
    ),
    "an output nobody has": ({"inputs": [], "outputs": [{"name": "imagine"}]}, b"", 422, "image"),
    "an output twice": (
        {"inputs": [], "outputs": [{"name": "image"}, {"name": "image"}]},
        b"",
        422,
        "twice",
    ),
    "classification": (
        {"inputs": [], "outputs": [{"name": "image", "parameters": {"classification": 3}}]},
        b"",
        422,
        "classification",
    ),
    "an unknown parameter": ({"inputs": [], "parameters": {"stepz": 1}}, b"", 422, "stepz"),
    "a nested parameter": ({"inputs": [], "parameters": {"steps": [1]}}, b"", 422, "parameters"),
    "a parameter out of range": ({"inputs": [], "parameters": {"steps": 0}}, b"", 422, "steps"),
    "a field of other routes": (
        {"inputs": [], "parameters": {"response": "stream"}},
        b"",
        422,
        "response",
    ),
    "an unknown operation": ({"inputs": [], "parameters": {"operation": "x"}}, b"", 422, "operat"),
    "a sequence": ({"inputs": [], "parameters": {"sequence_id": 1}}, b"", 422, "sequences"),
    "no time": ({"inputs": [], "parameters": {"timeout": 0}}, b"", 422, "microseconds"),
    "rows that do not match": (
        {
            "inputs": [
                entry(shape=(2,), data=[1, 2]),
                entry("prompt", (3,), "BYTES", data=["a"] * 3),
            ]
        },
        b"",
        422,
        "rows",
    ),
    "too many rows": ({"inputs": [entry(shape=(65,), data=[1] * 65)]}, b"", 413, "64"),
    "n of rows": (
        {"inputs": [entry(shape=(2,), data=[1, 2])], "parameters": {"n": 2}},
        b"",
        422,
        "'n'",
    ),
    "seed twice": (
        {"inputs": [entry(data=[1])], "parameters": {"seed": 2}},
        b"",
        422,
        "both",
    ),
    "no image file": (
        {
            "inputs": [entry("image_file", (1,), "BYTES", data=["GIF89a"])],
            "parameters": {"operation": "variation"},
        },
        b"",
        415,
        "PNG",
    ),
    "an image to generate from": (
        {
            "inputs": [entry("image", (1, 1, 1, 3), "UINT8", data=[1, 2, 3])],
            "parameters": {"operation": "generate"},
        },
        b"",
        422,
        "takes no image",
    ),
    "an image of other channels": (
        {"inputs": [entry("image", (1, 1, 1, 4), "UINT8", data=[1, 2, 3, 4])]},
        b"",
        422,
        "shape",
    ),
    "256": ({"inputs": [entry("image", (1, 1, 1, 3), "UINT8", data=[0, 0, 256])]}, b"", 422, "255"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_refused_before_any_work(client: Any, backend: Any, what: str) -> None:
    head, rest, status, said = MALFORMED[what]
    backend.catalog["shapes-ldm"].operations.update(variation={"type": "object"})
    backend.catalog["shapes-ldm"].operations["generate"]["properties"] = {"latents": {}}
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if rest else {}
    answer = client.post("/v2/models/shapes-ldm/infer", content=text + rest, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert not backend.calls


@pytest.mark.parametrize("length", ["0", "-1", "9999", "1e1", "", "٣", "9" * 30])
def test_a_header_length_outside_of_the_body_is_refused(client: Any, length: str) -> None:
    headers = [(b"inference-header-content-length", length.encode())]
    answer = client.post("/v2/models/shapes-ldm/infer", content=b'{"inputs":[]}', headers=headers)
    assert answer.status_code == 400
    assert "1 to 13" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content-encoding": "gzip"}, 415), ({"content-type": "text/html"}, 415)],
)
def test_other_encodings_are_refused(client: Any, headers: Any, status: int) -> None:
    answer = client.post("/v2/models/shapes-ldm/infer", content=b"{}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/shapes-ldn", 404),
        ("GET", "/v2/nowhere", 404),
        ("DELETE", "/v2", 405),
        ("GET", f"/v2/models/{'x' * 200}", 422),
    ],
)
def test_every_error_is_a_sentence(client: Any, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)


def test_a_body_over_the_limit_is_refused_in_the_same_words(connect: Any) -> None:
    client = connect(max_body_bytes=100)
    answer = client.post("/v2/models/shapes-ldm/infer", content=b" " * 101)
    assert (answer.status_code, list(answer.json())) == (413, ["error"])


def test_tritons_timeout_is_the_deadline(client: Any, backend: Any) -> None:
    body = {"inputs": [], "parameters": {"timeout": 5_000_000, "priority": 1}}
    assert client.post("/v2/models/shapes-ldm/infer", json=body).status_code == 200
    assert 4 < backend.calls[0].deadline <= 5


def test_a_wrong_key_is_refused(connect: Any) -> None:
    client = connect(api_keys=["0" * 64])
    answer = client.post("/v2/models/shapes-ldm/infer", json={"inputs": []})
    assert answer.status_code == 401
    assert isinstance(answer.json()["error"], str)


def test_a_bug_is_a_sentence_too(client: Any, backend: Any) -> None:
    backend.error = ZeroDivisionError("secret")
    answer = client.post("/v2/models/shapes-ldm/infer", json={"inputs": []})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert isinstance(answer.json()["error"], str)
