"""What ``atelier evaluate`` measures: against closed forms, and twice the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_store.evaluation.suite import latents, restorations, samples
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.evaluate import evaluate
from model_store.evaluation.suite.features import (
    DigitsClassifier,
    ShapesClassifier,
)
from model_store.evaluation.suite.held_out import Factor, HeldOut, Pairs, fitted, read_folder
from model_store.evaluation.suite.likelihoods import anomalies
from model_store.evaluation.suite.measured import Evaluation, Measurement
from model_store.recipes.held_out import SETS, set_of, shrunken_shapes
from services.core.errors import InvalidImage, InvalidParameter, UnsupportedTask
from services.core.job import Task
from services.families import discover
from services.serving.in_process import InProcessBackend
from tests.engines import some_pixels
from tests.tiny_models import MODELS, one_of_each

REPORTS: list[tuple[str, int, int]] = []


@pytest.fixture(scope="module")
def backend() -> Iterator[InProcessBackend]:
    """The tiny models."""
    running = InProcessBackend(one_of_each(), discover())
    yield running
    running.close()


async def subject(backend: InProcessBackend, name: str, seed: int = 3) -> Subject:
    def report(what: str, done: int, total: int) -> None:
        REPORTS.append((what, done, total))

    return Subject(backend, await backend.model(name), seed=seed, report=report)


def some_images(channels: int, side: int, count: int = 16) -> HeldOut:
    images = torch.from_numpy(some_pixels(count, channels, side, side))
    others = {"blanks": torch.full_like(images, 7)}
    return HeldOut("noise", "all", images, others=others)


def values(rows: list[Measurement]) -> Mapping[str, float]:
    return {row.name: row.value for row in rows}


async def evaluated(backend: InProcessBackend, family: str) -> Evaluation:
    model = MODELS[family]()
    real = some_images(model.channels, model.resolution[0])
    told = await subject(backend, f"tiny-{family}")
    return await evaluate(told, real, weights={}, open_networks=MODELS[family])


@pytest.mark.parametrize("family", ["gan", "flow", "density"])
async def test_the_same_model_data_and_seed_give_the_same_document(
    family: str, backend: InProcessBackend
) -> None:
    first, second = [await evaluated(backend, family) for _ in range(2)]
    assert first.model_dump_json() == second.model_dump_json()
    assert Evaluation.model_validate_json(first.model_dump_json()) == first
    names = values(first.measurements)
    assert {"sliced_wasserstein_pixels", "recall_pixels"} <= names.keys()
    assert not any("domain_classifier" in name for name in names)
    assert [missing.name for missing in first.unmeasured] == ["fid, kid, is"]


async def test_a_model_is_asked_for_what_it_offers(backend: InProcessBackend) -> None:
    flow, gan = [values((await evaluated(backend, f)).measurements) for f in ("flow", "gan")]
    assert {"bits_per_dim", "corrected_bits_per_dim", "reconstruction_psnr_db"} <= flow.keys()
    assert flow["reconstruction_psnr_db"] > 40
    assert not {name for name in gan if "bits" in name or "reconstruction" in name}
    assert ("likelihoods", 16, 16) in REPORTS


async def test_enlargements_stand_beside_bicubic_ones(backend: InProcessBackend) -> None:
    found = values((await evaluated(backend, "super_resolution")).measurements)
    assert {"enlargement_psnr_db", "bicubic_psnr_db", "bicubic_sharpness"} <= found.keys()


async def test_a_translation_stands_beside_its_source(backend: InProcessBackend) -> None:
    told, noise = await subject(backend, "tiny-translation"), some_images(3, 8)
    pairs = Pairs(noise.images, noise.images.flip(3))
    real = replace(noise, translations=pairs)
    found = values((await evaluate(told, real, weights={})).measurements)
    same = values(restorations.closeness("source", pairs.source, pairs.target, None))
    assert found.items() >= same.items()
    made = told.pixels(await told.of_each("", Task.EDIT, pairs.source, operation="translate"))
    exact = await restorations.translated(told, Pairs(pairs.source, made), None, None)
    assert values(exact)["translation_psnr_db"] == 100
    with pytest.raises(UnsupportedTask, match="against pairs"):
        await evaluate(told, noise, weights={})


async def test_noise_of_the_named_strength_is_to_be_taken_away(backend: InProcessBackend) -> None:
    seen: dict[str, Any] = {}

    class Untouched(Subject):
        async def of_each(self, *asked: Any, **told: Any) -> Any:
            seen.update(told, images=asked[2])
            return asked[2]

        def pixels(self, items: Any) -> Any:
            return items

    info = replace(await backend.model("tiny-vae"), limits={"noise_standard_deviation": 20.0})
    idle = Untouched(backend, info, seed=3, report=lambda *_: None)
    grey = torch.full((16, 1, 32, 32), 128, dtype=torch.uint8)
    found = values(await restorations.denoised(idle, grey, None))
    assert seen["operation"] == "denoise"
    assert seen["images"].float().std() == pytest.approx(20, rel=0.05)
    assert found["denoised_psnr_db"] == found["noisy_psnr_db"]
    assert found["noisy_psnr_db"] == pytest.approx(20 * math.log10(255 / 20), abs=0.3)
    assert found["noise_standard_deviation"] == 20


def test_drawings_show_what_their_shapes_show() -> None:
    pairs, reader = SETS["shapes"](60, 5, (32, 32), 3).translations, ShapesClassifier()
    assert pairs is not None
    right = values(restorations.agreement("read", pairs.target, pairs.factors, reader))
    assert right["read_all_factors"] > 0.9
    assert right["read"] >= right["read_all_factors"]
    assert (pairs.source != pairs.target).any()
    turned = Pairs(pairs.source, pairs.target.roll(1, 0), pairs.factors)
    wrong = values(restorations.agreement("read", turned.target, turned.factors, reader))
    assert wrong["read_all_factors"] < 0.1


async def test_a_samples_seed_does_not_depend_on_its_call(backend: InProcessBackend) -> None:
    told = await subject(backend, "tiny-gan")
    together = await told.generated([{"label": 1}] * 3)
    apart = [await told.generated([{"label": i}, {"label": 1}, {"label": 2}]) for i in (0, 1)]
    assert torch.equal(together[1], apart[0][1])
    assert torch.equal(together[0], apart[1][0])
    assert not torch.equal(together[0], apart[0][0])


def test_a_path_length_is_that_of_images_and_always_the_same() -> None:
    model = MODELS["gan"]()
    first, second, other = (
        latents.path_length(model, ShapesClassifier(), labels=3, pairs=4, seed=seed)[0]
        for seed in (1, 1, 2)
    )
    assert first == second != other
    assert first.value > 0
    assert (
        latents.path_length(MODELS["flow"](), ShapesClassifier(), labels=0, pairs=4, seed=1) == []
    )


def judged(*bits: float | None) -> list[dict[str, Any]]:
    return [{"bits_per_dim": value, "corrected_bits_per_dim": value} for value in bits]


@pytest.mark.parametrize(
    ("strangers", "area"),
    [((3.0, 4.0), 1.0), ((0.0, 0.5), 0.0), ((1.0, 2.0), 0.5), ((1.5, 9.0), 0.75)],
)
def test_the_area_is_the_share_of_pairs_in_order(strangers: Any, area: float) -> None:
    found = values(anomalies(judged(1.0, 2.0), judged(*strangers), "strangers"))
    assert found == {
        "anomaly_auroc_strangers_likelihood": area,
        "anomaly_auroc_strangers_corrected_likelihood": area,
    }


def test_a_score_that_some_image_lacks_has_no_area() -> None:
    rows = [{"bits_per_dim": 1.0, "corrected_bits_per_dim": None}]
    found = values(anomalies(rows, judged(2.0), "x"))
    assert list(found) == ["anomaly_auroc_x_likelihood"]


def test_closeness_of_images_that_differ_by_one_level_is_known() -> None:
    images = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    found = values(restorations.closeness("copy", images + 1, images, None))
    assert found["copy_psnr_db"] == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert found["copy_ssim"] == pytest.approx(1, abs=1e-3)
    same = values(restorations.closeness("copy", images, images, ShapesClassifier()))
    assert same["copy_perceptual_distance_domain_classifier"] == 0


def test_held_out_shapes_agree_with_their_own_captions() -> None:
    real, reader = SETS["shapes"](120, 5, (32, 32), 3), ShapesClassifier()
    found = values(samples.prompt_agreement(real.images, real, reader))
    assert found["prompt_agreement_domain_classifier"] > 0.97
    shuffled = values(samples.prompt_agreement(real.images.roll(1, 0), real, reader))
    assert shuffled["prompt_agreement_domain_classifier_all_factors"] < 0.05
    assert found["prompt_agreement_domain_classifier_color"] == 1
    apart = values(samples.compared(real.images[:60], real, reader, seed=0))
    assert apart["precision_domain_classifier"] == 1


def test_held_out_digits_are_read_as_their_labels() -> None:
    real, reader = SETS["digits"](360, 0, (8, 8), 1), DigitsClassifier()
    labels, shown = real.factors["digit"]
    told = [{"label": int(i)} for i in shown]
    (found,) = samples.label_accuracy(real.images, told, labels, real, reader)
    assert found.value > 0.95
    assert samples.label_accuracy(real.images, told, ["cat", "dog"], real, reader) == []
    (even,) = samples.variety(real.images, real.factors, reader)
    assert even.value > 0.99


def test_labels_come_in_equal_shares_and_captions_in_turn() -> None:
    info: Any = type("Info", (), {"labels": ("a", "b", "c"), "operations": {}})
    told = Subject(None, info, seed=0, report=lambda *_: None)  # type: ignore[arg-type]
    info.operations = {"generate": {"properties": {"label": {}}}}
    real = HeldOut("x", "all", torch.zeros(1), captions=["one", "two"])
    assert [row["label"] for row in samples.tellings(told, real, 6)] == [0, 0, 1, 1, 2, 2]
    info.operations = {"generate": {"properties": {"prompt": {}, "label": {}}}}
    prompts = [row["prompt"] for row in samples.tellings(told, real, 3)]
    assert prompts == ["one", "two", "one"]


def test_a_folder_is_read_at_the_models_size_in_the_order_of_its_names(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = read_folder(tmp_path, resolution=(8, 8), channels=1, count=100)
    assert found.images.shape == (20, 1, 8, 8)
    assert found.images[:, 0, 0, 0].tolist() == list(range(20))
    few = read_folder(tmp_path, resolution=(8, 8), channels=1, count=3)
    assert few.images[:, 0, 0, 0].tolist() == [0, 10, 19]


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    size = {"resolution": (8, 8), "channels": 1, "count": 100}
    with pytest.raises(InvalidParameter, match="no folder"):
        read_folder(tmp_path / "absent", **size)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="holds 0 images"):
        read_folder(tmp_path, **size)  # type: ignore[arg-type]
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(InvalidImage, match=r"0\.png"):
        read_folder(tmp_path, **size)  # type: ignore[arg-type]


def test_pairs_are_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    size: Any = {"resolution": (8, 8), "channels": 1, "count": 100}
    for folder, shade in (("source", 0), ("target", 100)):
        (tmp_path / folder).mkdir()
        for i in range(16):
            Image.new("L", (8, 8), shade + i).save(tmp_path / folder / f"{i:02}.png")
    found = read_folder(tmp_path, **size)
    assert found.translations is not None
    assert torch.equal(found.images, found.translations.target)
    assert torch.equal(found.translations.source + 100, found.images)
    (tmp_path / "source" / "03.png").unlink()
    with pytest.raises(InvalidParameter, match=r"03\.png.*only one"):
        read_folder(tmp_path, **size)


def test_the_built_in_sets_are_always_the_same_and_fit_the_model() -> None:
    for name, make in SETS.items():
        first, second = (make(20, 4, (16, 16), 1) for _ in range(2))
        assert torch.equal(first.images, second.images), name
        assert first.images.shape == (20, 1, 16, 16)
        for images in first.others.values():
            assert images.shape == (20, 1, 16, 16)
    assert set_of({"datasets": ["scikit-learn/load_digits"]}) == "digits"
    assert set_of({"datasets": ["somebody/cats"]}) is None


def test_shrunken_shapes_are_grey_and_of_the_digits_size() -> None:
    found = shrunken_shapes(5, torch.Generator().manual_seed(0))
    assert found.shape == (5, 1, 8, 8)
    assert found.dtype == torch.uint8
    assert len(np.unique(found.numpy())) > 5


def test_images_that_fit_are_left_as_they_are() -> None:
    images = torch.from_numpy(some_pixels(2, 3, 8, 8))
    assert fitted(images, (8, 8), 3) is images
    assert fitted(images, (4, 4), 1).shape == (2, 1, 4, 4)


def test_variety_is_none_where_all_samples_are_alike() -> None:
    real = SETS["shapes"](20, 5, (32, 32), 3)
    alike = real.images[:1].expand(20, -1, -1, -1)
    factors = {"shape": Factor(("a", "b", "c", "d", "e", "f"), torch.zeros(20))}
    (found,) = samples.variety(alike, factors, ShapesClassifier())
    assert found.value == 0
