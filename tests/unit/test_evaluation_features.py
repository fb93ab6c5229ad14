"""A network of the user's that images are compared by."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from model_store.evaluation.suite.features import DigitsClassifier, OnnxFeatures, ShapesClassifier
from model_store.evaluation.suite.held_out import signed
from services.core.errors import InvalidNetwork, InvalidParameter, UnsafeModel
from tests.engines import some_pixels


def means(folder: Path, side: int | str = 8) -> Path:
    """A network whose features are each channel's mean; its logits are the same."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3, 1, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["features"]),
        helper.make_node("Flatten", ["features"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "means", [image], [features, logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file = folder / "Channel Means.onnx"
    onnx.save(model, file)
    return file


def test_features_are_what_the_network_gives_for_images_in_the_signed_range(tmp_path: Path) -> None:
    network = OnnxFeatures(means(tmp_path))
    images = torch.from_numpy(some_pixels(70, 3, 8, 8))
    expected = signed(images).mean((2, 3))
    torch.testing.assert_close(network.vectors(images), expected)
    logits = network.logits(images)
    assert logits is not None
    torch.testing.assert_close(logits, expected)
    assert network.maps(signed(images)) is None


def test_images_are_brought_to_the_networks_size_and_colours(tmp_path: Path) -> None:
    grey = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    for side in (8, "side"):
        found = OnnxFeatures(means(tmp_path, side)).vectors(grey)
        torch.testing.assert_close(found, torch.ones(2, 3))


def test_a_network_is_named_by_its_file_and_its_hash(tmp_path: Path) -> None:
    file = means(tmp_path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    described = OnnxFeatures(file).described
    assert described.name == f"channel_means_{digest[:8]}"
    assert (described.file, described.sha256) == ("Channel Means.onnx", digest)


def test_a_network_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no file"):
        OnnxFeatures(tmp_path / "absent.onnx")
    other = tmp_path / "other.onnx"
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])
    graph = helper.make_graph([helper.make_node("Tanh", ["z"], ["y"])], "g", [z], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), other
    )
    with pytest.raises(InvalidNetwork, match="one batch of images"):
        OnnxFeatures(other)
    other.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises((InvalidNetwork, UnsafeModel)):
        OnnxFeatures(other)


def test_a_classifiers_features_do_not_depend_on_company() -> None:
    for network, shape in ((ShapesClassifier(), (3, 32, 32)), (DigitsClassifier(), (1, 8, 8))):
        images = torch.from_numpy(some_pixels(5, *shape))
        together = network.vectors(images)
        alone = torch.cat([network.vectors(image[None]) for image in images])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert len(network.maps(signed(images))[0]) == 5
