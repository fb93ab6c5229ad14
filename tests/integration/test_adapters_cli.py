"""Adapters from the command line: added, listed, shown, verified, removed, each in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from services.cli.models import models
from tests import tiny_adapters
from tests.adapter_bench import BASE, Bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Bench(tmp_path_factory.mktemp("bench"))


def run(bench: Bench, *arguments: str) -> tuple[int, str]:
    environment = {"ATELIER_STORE": str(bench.root / "store"), "COLUMNS": "200"}
    result = CliRunner().invoke(models, [*arguments], env=environment)
    return result.exit_code, result.output


def lora(bench: Bench, path: Path) -> Path:
    changes = tiny_adapters.pairs(bench.pipeline.unet, ("conv_out",))
    return tiny_adapters.saved(tiny_adapters.peft("unet", changes), path)


def test_an_adapter_comes_and_goes(bench: Bench, tmp_path: Path) -> None:
    file = lora(bench, tmp_path / "pixels.safetensors")
    code, said = run(bench, "add", str(file), "--name", "pixel-style", "--base", BASE)
    assert code == 0, said
    assert "a LoRA for 'tiny-sd'" in said
    assert '"name": "pixel-style"' in said
    listed = json.loads(run(bench, "list", "--json")[1])
    mine = next(entry for entry in listed if entry["id"] == "pixel-style")
    assert (mine["kind"], mine["base"]) == ("lora", BASE)
    assert "pixel-style" in run(bench, "list")[1]
    assert json.loads(run(bench, "show", "pixel-style")[1])["kind"] == "lora"
    assert "every file is as stored" in run(bench, "verify", "pixel-style")[1]
    code, said = run(bench, "add", str(file), "--name", "pixel-style", "--base", BASE)
    assert code == 1
    assert "taken by an adapter" in said
    assert run(bench, "remove", "pixel-style")[0] == 0
    assert run(bench, "show", "pixel-style")[0] == 1


def test_a_word_is_added_with_its_own_option(bench: Bench, tmp_path: Path) -> None:
    file = tiny_adapters.saved({"emb_params": torch.zeros(2, 16)}, tmp_path / "blob.safetensors")
    code, said = run(bench, "add", str(file), "--base", BASE, "--token", "<blob>")
    assert code == 0, said
    assert "<blob> in a prompt" in said


@pytest.mark.parametrize(
    ("name", "base", "said"),
    [
        ("x.bin", BASE, "no .safetensors file"),
        ("absent.safetensors", BASE, "does not exist"),
        ("x.safetensors", "tiny-sdd", "did you mean tiny-sd"),
        ("x.safetensors", "shapes-cgan", "diffusers folder"),
    ],
)
def test_what_cannot_be_added_is_refused_in_a_sentence(
    bench: Bench, tmp_path: Path, name: str, base: str, said: str
) -> None:
    if not name.startswith("absent"):
        lora(bench, tmp_path / "x.safetensors").rename(tmp_path / name)
    code, output = run(bench, "add", str(tmp_path / name), "--name", "odd", "--base", base)
    assert code == 1
    assert said in output


def test_verification_names_what_was_changed(bench: Bench) -> None:
    manifest = bench.store.adapters.get("style")
    assert manifest.weights is not None
    blob = bench.root / "store" / "adapters" / "blobs" / str(manifest.weights.sha256)
    kept = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(kept[:-1] + b"!")
    code, said = run(bench, "verify", "style")
    assert code == 1
    assert "not the file that was stored" in said
    blob.write_bytes(kept)
