from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file, save_file

from model_store.architectures import build
from model_store.export.card import Card, flatten
from model_store.export.network import (
    SMALLEST_HALF,
    Input,
    NetworkExport,
    ParityError,
    check_parity,
    export,
    open_session,
)

CONFIG = {"latent": 16, "width": 16, "blocks": 1, "squeeze": 2, "hidden": 16, "side": 8}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    module = build("vector_encoder", CONFIG)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network = NetworkExport(
        name="encoder",
        architecture="vector_encoder",
        module=module,
        inputs={"image": Input((3, 8, 8), "image")},
        config=CONFIG,
    )
    folder = tmp_path_factory.mktemp("export")
    return network, folder, export(network, folder)


def test_both_exports_agree(exported):
    _, _, difference = exported
    assert difference <= 1e-5


def test_weights_are_stored_in_half_precision(exported):
    network, folder, _ = exported
    assert all(w.dtype == torch.float16 for w in load_file(folder / "encoder.safetensors").values())
    for tensor in onnx.load(folder / network.onnx_file).graph.initializer:
        if numpy_helper.to_array(tensor).size > SMALLEST_HALF:
            assert tensor.data_type != TensorProto.FLOAT, tensor.name


def test_a_graph_takes_its_weights_from_the_file_beside_it(exported):
    network, folder, _ = exported
    model = onnx.load(folder / network.onnx_file, load_external_data=False)
    outside = [t for t in model.graph.initializer if t.external_data]
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert outside
    assert all(t.external_data[0].value == network.safetensors_file for t in outside)
    assert held < 0.2 * (folder / network.safetensors_file).stat().st_size


def test_a_graph_has_logical_names_and_a_dynamic_batch(exported):
    network, folder, _ = exported
    session = open_session(folder / network.onnx_file)
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["mean", "log_variance"]
    assert session.run(None, {"image": network.draw(5, 0)["image"].numpy()})[0].shape == (5, 16)


def test_a_graph_keeps_no_trace_of_the_machine_it_was_made_on(exported):
    network, folder, _ = exported
    content = (folder / network.onnx_file).read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_the_gate_stops_a_network_that_was_tampered_with(exported, tmp_path):
    network, folder, _ = exported
    weights = load_file(folder / network.safetensors_file)
    weights["linear.bias"] = weights["linear.bias"] + 0.01
    save_file(weights, tmp_path / network.safetensors_file)
    (tmp_path / network.onnx_file).write_bytes((folder / network.onnx_file).read_bytes())
    with pytest.raises(ParityError, match=r"network 'encoder': output 'mean' differs by 0\.01"):
        check_parity(network, tmp_path)


def test_the_gate_stops_what_is_not_a_number(exported, tmp_path):
    network, folder, _ = exported
    weights = load_file(folder / network.safetensors_file)
    weights["linear.bias"] = weights["linear.bias"] * float("nan")
    save_file(weights, tmp_path / network.safetensors_file)
    (tmp_path / network.onnx_file).write_bytes((folder / network.onnx_file).read_bytes())
    with pytest.raises(ParityError):
        check_parity(network, tmp_path)


def test_a_card_carries_its_metadata_and_numbers():
    card = Card(
        title="tiny",
        summary="A model.",
        data="Data.",
        training="Ten steps.",
        measured="On test images.",
        limits=("Small.",),
        recipe="model_store.recipes.tiny",
        pipeline_tag="text-to-image",
        dataset="atelier/tiny",
        tags=("gan",),
    )
    metrics = {"psnr": 30.5, "accuracy": {"shape": 0.9}}
    text = card.render(model_license="Apache-2.0", metrics=metrics, sheet="samples.png")
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "| accuracy.shape | 0.9 |" in text
    assert flatten(metrics) == [("psnr", "30.5"), ("accuracy.shape", "0.9")]
