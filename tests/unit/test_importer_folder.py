"""A pipeline's folder is vetted before anything of it is opened: what is not named is not taken."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from model_store.addition import add_model
from model_store.importers.pipeline_folder import is_pipeline, read_pipeline_folder
from model_store.importers.pipelines import import_pipeline
from model_store.limits import StoreLimits
from model_store.store import Store
from services.core.errors import AtelierError, IntegrityFailure, InvalidManifest, UnsafeModel

LIMITS = StoreLimits()
INDEX = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.42.1",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
UNET = {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which all is well, as far as can be seen without opening a network."""
    path = tmp_path / "My Model v1.5"
    (path / "unet").mkdir(parents=True)
    (path / "scheduler").mkdir()
    say(path, "model_index.json", INDEX)
    say(path, "unet/config.json", UNET)
    say(path, "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"})
    weights(path, "unet/diffusion_pytorch_model.safetensors")
    (path / "README.md").write_text("A model.")
    (path / "LICENSE.txt").write_text("Free.")
    (path / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return path


def say(folder: Path, file: str, values: Any) -> None:
    (folder / file).write_text(json.dumps(values))


def weights(folder: Path, file: str) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, folder / file)


def index(folder: Path, **entries: Any) -> None:
    say(folder, "model_index.json", {**INDEX, **entries})


def test_a_sound_folder_is_read_with_every_file_it_names(folder: Path) -> None:
    assert is_pipeline(folder)
    draft = import_pipeline(folder, LIMITS, name=None)
    assert draft.manifest.id == "my-model-v1.5"
    assert sorted(draft.contents) == [
        "model_index.json",
        "scheduler.scheduler_config.json",
        "unet.config.json",
    ]
    assert sorted(draft.weights) == ["unet.diffusion_pytorch_model.safetensors"]
    stored = {f.file for f in draft.manifest.stored_files()}
    assert stored == {*draft.contents, *draft.weights}
    assert draft.manifest.options["clip_sample"] == 1.0


@pytest.mark.parametrize("file", ["pipeline.py", "unet/my_unet.py", "unet/kernel.so"])
def test_code_is_refused(folder: Path, file: str) -> None:
    (folder / file).write_text("raise SystemExit")
    with pytest.raises(UnsafeModel, match="code"):
        read_pipeline_folder(folder, LIMITS)


@pytest.mark.parametrize(
    "file", ["model.ckpt", "unet/diffusion_pytorch_model.bin", "unet/x.pt", "x.pth", "x.PKL"]
)
def test_pickles_are_refused_by_name(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"")
    with pytest.raises(UnsafeModel, match="pickle"):
        read_pipeline_folder(folder, LIMITS)


def test_a_pickle_that_calls_itself_safetensors_is_refused(folder: Path) -> None:
    data = pickle.dumps({"weight": [0.0]})
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(data)
    with pytest.raises(UnsafeModel, match="pickle"):
        read_pipeline_folder(folder, LIMITS)


def test_a_torch_archive_that_calls_itself_safetensors_is_refused(folder: Path) -> None:
    archive = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, archive)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(archive.getvalue())
    with pytest.raises(UnsafeModel, match="zip"):
        read_pipeline_folder(folder, LIMITS)


@pytest.mark.parametrize("target", ["file", "folder"])
def test_links_are_refused(folder: Path, tmp_path: Path, target: str) -> None:
    if target == "file":
        elsewhere = tmp_path / "config.json"
        (folder / "unet" / "config.json").rename(elsewhere)
        (folder / "unet" / "config.json").symlink_to(elsewhere)
    else:
        (folder / "scheduler").rename(tmp_path / "scheduler")
        (folder / "scheduler").symlink_to(tmp_path / "scheduler")
    with pytest.raises(UnsafeModel, match="symbolic link"):
        read_pipeline_folder(folder, LIMITS)


@pytest.mark.parametrize(
    "file", ["notes.txt", "unet/notes.txt", "unet/deep/config.json", "vae/config.json", "x.onnx"]
)
def test_a_file_that_nothing_names_is_refused(folder: Path, file: str) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("{}")
    with pytest.raises(UnsafeModel, match="named by no index"):
        read_pipeline_folder(folder, LIMITS)


@pytest.mark.parametrize(
    ("entries", "refusal"),
    [
        ({"custom_pipeline": "my_pipeline"}, "custom_pipeline"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"_class_name": ["pipeline", "Mine"]}, "own code"),
        ({"unet": ["my_module", "UNet2DModel"]}, "only classes of diffusers"),
        ({"../unet": ["diffusers", "UNet2DModel"]}, "no name"),
        ({"unet": ["diffusers", "UNet2DModel", "x"]}, "library, class"),
        ({"unet": ["diffusers", "StableCascadeUNet"]}, "which is not served"),
        ({"unet": ["diffusers", "os.system"]}, "which is not served"),
        ({"_class_name": "AudioLDMPipeline"}, "served are DDPMPipeline"),
        ({"scheduler": ["diffusers", "KarrasVeScheduler"]}, "KarrasVeScheduler"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "no such folder"),
    ],
)
def test_an_index_that_asks_for_more_is_refused(
    folder: Path, entries: dict[str, Any], refusal: str
) -> None:
    index(folder, **entries)
    with pytest.raises(AtelierError, match=refusal):
        import_pipeline(folder, LIMITS, name=None)


@pytest.mark.parametrize(
    "entry",
    [
        {"auto_map": {"AutoModel": "mine.Model"}},
        {"nested": [{"trust_remote_code": True}]},
        {"attn_implementation": "kernels-community/mine"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"vocab_file": "/etc/passwd"},
    ],
)
def test_a_configuration_that_leads_elsewhere_is_refused(
    folder: Path, tmp_path: Path, entry: dict[str, Any]
) -> None:
    say(folder, "unet/config.json", {**UNET, **entry})
    store = Store(tmp_path / "store", catalogs=())
    with pytest.raises(UnsafeModel):
        add_model(store, folder)
    assert not store.list()


@pytest.mark.parametrize(
    ("weight_map", "kind"),
    [
        ({"weight": "../../secret.safetensors"}, UnsafeModel),
        ({"weight": "/etc/passwd"}, UnsafeModel),
        ({"weight": "weights.bin"}, UnsafeModel),
        ({"weight": "absent.safetensors"}, IntegrityFailure),
        ({}, InvalidManifest),
        ("x", InvalidManifest),
    ],
)
def test_a_weight_index_names_safetensors_of_its_own_folder_alone(
    folder: Path, weight_map: Any, kind: type[AtelierError]
) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    name = "unet/diffusion_pytorch_model.safetensors.index.json"
    say(folder, name, {"metadata": {}, "weight_map": weight_map})
    with pytest.raises(kind):
        read_pipeline_folder(folder, LIMITS)


def test_shards_are_taken_as_the_index_names_them(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard in shards:
        weights(folder, f"unet/{shard}")
    name = "diffusion_pytorch_model.safetensors.index.json"
    say(folder, f"unet/{name}", {"weight_map": {"a": shards[0], "b": shards[1]}})
    files = read_pipeline_folder(folder, LIMITS).components["unet"].files
    assert files == {n: n for n in ["config.json", name, *shards]}


def test_a_variant_alone_is_taken_for_the_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    files = read_pipeline_folder(folder, LIMITS).components["unet"].files
    assert files["diffusion_pytorch_model.safetensors"] == path.stem + ".fp16.safetensors"


def test_two_variants_are_one_too_many(folder: Path) -> None:
    weights(folder, "unet/diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(InvalidManifest, match="more than once"):
        read_pipeline_folder(folder, LIMITS)


def test_weights_of_another_kind_are_none(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InvalidManifest, match="no safetensors weights"):
        read_pipeline_folder(folder, LIMITS)


def test_a_missing_configuration_is_named(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(IntegrityFailure, match=r"config\.json"):
        read_pipeline_folder(folder, LIMITS)


def test_a_class_that_was_split_up_is_known_by_its_norm(folder: Path) -> None:
    index(folder, unet=["diffusers", "Transformer2DModel"])
    say(folder, "unet/config.json", {"norm_type": "ada_norm_zero"})
    assert read_pipeline_folder(folder, LIMITS).components["unet"].kind == "DiTTransformer2DModel"
    say(folder, "unet/config.json", {"norm_type": "layer_norm"})
    with pytest.raises(InvalidManifest, match="Transformer2DModel"):
        read_pipeline_folder(folder, LIMITS)


def test_a_safety_checker_is_vetted_and_left_out(folder: Path) -> None:
    entry = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index(folder, safety_checker=entry, feature_extractor=[None, None])
    (folder / "safety_checker").mkdir()
    say(folder, "safety_checker/config.json", {})
    weights(folder, "safety_checker/model.safetensors")
    assert "safety_checker" not in read_pipeline_folder(folder, LIMITS).components
    (folder / "safety_checker" / "model.bin").write_bytes(b"")
    with pytest.raises(UnsafeModel, match="pickle"):
        read_pipeline_folder(folder, LIMITS)


def test_a_configuration_larger_than_its_weights_is_stopped(folder: Path, tmp_path: Path) -> None:
    say(folder, "unet/config.json", {**UNET, "block_out_channels": [1 << 16] * 4})
    store = Store(tmp_path / "store", catalogs=())
    with pytest.raises(AtelierError, match="larger network than its file holds"):
        add_model(store, folder)
    assert not store.list()


def test_weights_that_are_not_the_networks_own_are_refused(folder: Path, tmp_path: Path) -> None:
    small = {"block_out_channels": [4, 4], "norm_num_groups": 2, "layers_per_block": 1}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    say(folder, "unet/config.json", {**UNET, **small, **blocks})
    store = Store(tmp_path / "store", catalogs=())
    with pytest.raises(AtelierError, match="lack weight"):
        add_model(store, folder)
    assert not store.list()
