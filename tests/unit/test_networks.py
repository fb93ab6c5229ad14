"""Networks as any framework exports them become the same network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from model_store.networks.binding import Declared
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.image_layout import Frame
from model_store.networks.onnx_graph import OnnxGraph
from model_store.networks.signatures import SIGNATURES
from services.core.errors import EngineFailure, InvalidNetwork
from tests.unit.tiny_networks import CLASSES, LATENT, Generator

CPU = torch.device("cpu")


def opened(
    data: bytes, frame: Frame, family: str = "gan", network: str = "generator", **declared: Any
) -> ExportedNetwork:
    graph = OnnxGraph(data, name=network, device=CPU, threads=2)
    said = Declared(network, frame, SIGNATURES.get((family, network)), **declared)
    exported = ExportedNetwork(graph, said, CPU)
    exported.probe()
    return exported


def frame_of(generator: Generator) -> Frame:
    return Frame(generator.channels, generator.height, generator.width)


QUIRKS = [
    Generator(),
    Generator(channels=3),
    Generator(layout="nhwc"),
    Generator(layout="nhwc", channels=3),
    Generator(layout="flat"),
    Generator(batch=1),
    Generator(batch=4),
    Generator(batch=4, channels=3, layout="nhwc", label="one_hot"),
    Generator(label="int64"),
    Generator(label="int32"),
    Generator(label="column"),
    Generator(label="one_hot"),
    Generator(label="int64", label_name="class_id", z_name="noise"),
    Generator(label="one_hot", label_name="input_2", z_name="input_1", output="Identity:0"),
    Generator(z_tail=(1, 1)),
    Generator(output="output_0", extra_output=True),
    Generator(dtype=np.float64),
    Generator(dtype=np.float16),
]


@pytest.mark.parametrize("generator", QUIRKS, ids=repr)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_every_export_of_a_generator_gives_its_images(generator: Generator, rows: int) -> None:
    network = opened(generator.bytes(), frame_of(generator))
    assert network.inputs["z"].shape == (LATENT, *generator.z_tail)
    assert network.outputs["image"].shape == frame_of(generator).shape
    inputs = {"z": torch.randn(rows, LATENT, *generator.z_tail)}
    label = None
    if generator.label != "none":
        inputs["label"] = torch.arange(rows) % CLASSES
        label = inputs["label"].numpy()
        assert network.inputs["label"].shape == ()
    image = network(**inputs)["image"]
    tolerance = 2e-2 if generator.dtype is np.float16 else 1e-5
    expected = generator.expected(inputs["z"].numpy().astype(generator.dtype), label)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.numpy(), expected, atol=tolerance)


def test_classes_of_a_one_hot_label_are_known() -> None:
    generator = Generator(label="one_hot")
    assert opened(generator.bytes(), frame_of(generator)).classes == {"label": CLASSES}


def test_the_manifest_maps_names() -> None:
    generator = Generator(z_name="a", output="b", extra_output=True)
    mapped = {"inputs": {"z": "a"}, "outputs": {"image": "b"}}
    assert "image" in opened(generator.bytes(), frame_of(generator), **mapped).outputs
    for wrong in ({"inputs": {"z": "nope"}}, {"outputs": {"image": "nope"}}):
        with pytest.raises(InvalidNetwork, match="nope"):
            opened(generator.bytes(), frame_of(generator), **wrong)


def test_flat_colour_images_need_the_order_of_their_axes() -> None:
    generator = Generator(channels=3, layout="flat")
    with pytest.raises(InvalidNetwork, match="image_layout"):
        opened(generator.bytes(), frame_of(generator))
    network = opened(generator.bytes(), frame_of(generator), image_layout="nchw")
    z = torch.randn(2, LATENT)
    np.testing.assert_allclose(
        network(z=z)["image"].numpy(), generator.expected(z.numpy()), atol=1e-5
    )


def test_a_cube_is_ambiguous() -> None:
    generator = Generator(channels=3, height=3, width=3)
    with pytest.raises(InvalidNetwork, match="image_layout"):
        opened(generator.bytes(), frame_of(generator))


@pytest.mark.parametrize("frame", [Frame(1, 32, 32), Frame(3, 4, 6), Frame(1, 6, 4)])
def test_another_resolution_than_the_manifest_says_is_refused(frame: Frame) -> None:
    with pytest.raises(InvalidNetwork, match=r"\[1, 4, 6\]"):
        opened(Generator().bytes(), frame)


def small_graph(
    inputs: list[tuple[str, int, list[Any]]], nodes: list[onnx.NodeProto], outputs: list[str]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_an_input_that_nobody_feeds_is_refused() -> None:
    data = small_graph(
        [("z", TensorProto.FLOAT, ["n", 24]), ("truncation", TensorProto.FLOAT, [])],
        [helper.make_node("Mul", ["z", "truncation"], ["image"])],
        ["image"],
    )
    with pytest.raises(InvalidNetwork, match="truncation"):
        opened(data, Frame(1, 4, 6))


def test_an_open_latent_shape_is_asked_for() -> None:
    data = small_graph(
        [("z", TensorProto.FLOAT, ["n", "d"])],
        [helper.make_node("Tanh", ["z"], ["image"])],
        ["image"],
    )
    with pytest.raises(InvalidNetwork, match="shapes"):
        opened(data, Frame(1, 4, 6))
    assert opened(data, Frame(1, 4, 6), shapes={"z": [24]}).inputs["z"].shape == (24,)


def test_a_batch_size_built_into_the_graph_is_found_out() -> None:
    shape = helper.make_node("Constant", [], ["s"], value_ints=[1, 1, 4, 6])
    data = small_graph(
        [("z", TensorProto.FLOAT, ["n", 24])],
        [shape, helper.make_node("Reshape", ["z", "s"], ["image"])],
        ["image"],
    )
    network = opened(data, Frame(1, 4, 6))
    z = torch.randn(5, 24)
    assert torch.equal(network(z=z)["image"], z.view(5, 1, 4, 6))


def test_a_flow_in_tensorflow_order_becomes_ours() -> None:
    data = small_graph(
        [("pixels", TensorProto.FLOAT, ["n", 4, 6, 1])],
        [
            helper.make_node("Constant", [], ["axis"], value_ints=[1]),
            helper.make_node("Flatten", ["pixels"], ["z"]),
            helper.make_node("ReduceSum", ["z", "axis"], ["total"], keepdims=1),
        ],
        ["z", "total"],
    )
    network = opened(data, Frame(1, 4, 6), "flow", "forward")
    x = torch.randn(3, 1, 4, 6)
    out = network(x=x)
    assert torch.equal(out["z"], x.flatten(1))
    torch.testing.assert_close(out["log_det"], x.flatten(1).sum(1))


@pytest.mark.parametrize("t_shape", [["n"], ["n", 1], []])
@pytest.mark.parametrize("t_type", [TensorProto.FLOAT, TensorProto.INT64])
def test_a_denoiser_takes_its_time_in_any_shape(t_shape: list[Any], t_type: int) -> None:
    axes = helper.make_node("Constant", [], ["s"], value_ints=[-1, 1, 1, 1])
    data = small_graph(
        [("sample", TensorProto.FLOAT, ["n", 2, 4, 4]), ("timestep", t_type, t_shape)],
        [
            axes,
            helper.make_node("Cast", ["timestep"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["f", "s"], ["t4"]),
            helper.make_node("Add", ["sample", "t4"], ["out_sample"]),
        ],
        ["out_sample"],
    )
    with pytest.raises(InvalidNetwork, match="epsilon"):
        opened(data, Frame(3, 8, 8), "diffusion", "denoiser")
    network = opened(
        data, Frame(3, 8, 8), "diffusion", "denoiser", outputs={"epsilon": "out_sample"}
    )
    x, t = torch.randn(3, 2, 4, 4), torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(network(x=x, t=t)["epsilon"], x + t.view(3, 1, 1, 1))


def test_an_unlisted_network_keeps_its_own_names() -> None:
    network = opened(Generator(z_name="q").bytes(), Frame(1, 4, 6), "density", "thing")
    assert (set(network.inputs), set(network.outputs)) == ({"q"}, {"image"})


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": torch.zeros(2, LATENT), "label": torch.zeros(2)},
        {"z": torch.zeros(2, LATENT + 1)},
        {"z": torch.zeros(0, LATENT)},
        {"z": torch.zeros(())},
    ],
)
def test_wrong_tensors_are_refused_in_words(inputs: dict[str, torch.Tensor]) -> None:
    network = opened(Generator().bytes(), Frame(1, 4, 6))
    with pytest.raises(EngineFailure, match=r"network 'generator'"):
        network(**inputs)


def test_a_failing_run_is_an_engine_failure() -> None:
    generator = Generator(label="int64")
    network = opened(generator.bytes(), frame_of(generator))
    with pytest.raises(EngineFailure, match="failed"):
        network(z=torch.zeros(1, LATENT), label=torch.tensor([10_000]))
