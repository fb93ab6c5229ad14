"""A classifier of the store decides on images by the probabilities of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.addition import add_model
from model_store.recipes import shapes
from model_store.store import CLASSIFIERS, Store
from services.core.errors import IntegrityFailure, InvalidParameter, ModelNotFound
from services.core.images import Pixels
from services.policies.interface import Action, Asked
from services.serving.classifier_policy import Classifier

ASKED = Asked("r1", "", "shapes-cgan", "generate")
STAR = shapes.FACTORS["shape"].index("star")
ROWS = 48


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"), catalogs=(CLASSIFIERS,))


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Pixels, int]]:
    """Shapes that the classifier was not trained on, and which each is."""
    images, factors = shapes.batch(ROWS, "test", torch.Generator().manual_seed(5))
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return [(row, int(factor[0])) for row, factor in zip(pixels, factors, strict=True)]


def test_what_shows_a_star_is_held_and_the_rest_is_not(classifiers, drawn) -> None:
    policy = Classifier(store=classifiers, model="shapes-classifier", hold={"star": 0.5})
    assert {shape == STAR for _, shape in drawn} == {True, False}
    right = sum(
        (policy.judge(pixels, ASKED).action is Action.HOLD) == (shape == STAR)
        for pixels, shape in drawn
    )
    assert right >= 0.95 * ROWS


def test_the_strictest_of_several_labels_counts(classifiers, drawn) -> None:
    star = next(pixels for pixels, shape in drawn if shape == STAR)
    held = Classifier(store=classifiers, model="shapes-classifier", hold={"shape/star": 0.5})
    colour = shapes.FACTORS["color"][held.scores(star)[1].argmax()]
    policy = Classifier(
        store=classifiers,
        model="shapes-classifier",
        hold={"shape/star": 0.5},
        refuse={f"color/{colour}": 0.5},
    )
    assert held.judge(star, ASKED).action is Action.HOLD
    assert policy.judge(star, ASKED).action is Action.REFUSE


def test_images_of_another_size_are_judged_alike(classifiers, drawn) -> None:
    policy = Classifier(store=classifiers, model="shapes-classifier", hold={"star": 0.5})
    star = next(pixels for pixels, shape in drawn if shape == STAR)
    large = np.kron(star, np.ones((1, 4, 4), np.uint8))
    assert policy.judge(large, ASKED).action is Action.HOLD


def test_probabilities_are_those_of_the_softmax(classifiers, drawn) -> None:
    policy = Classifier(store=classifiers, model="shapes-classifier", hold={"star": 0.5})
    for scores, labels in zip(policy.scores(drawn[0][0]), shapes.FACTORS.values(), strict=True):
        assert len(scores) == len(labels)
        assert scores.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "shapes-classifier"}, "give labels"),
        ({"model": "shapes-classifier", "hold": {"moon": 0.5}}, "not one label.*circle"),
        ({"model": "shapes-classifier", "hold": {"star": 0.0}}, "in \\(0, 1\\]"),
        ({"model": "shapes-classifier", "hold": {"star": 1.5}}, "in \\(0, 1\\]"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(classifiers, settings, complaint) -> None:
    with pytest.raises(InvalidParameter, match=complaint):
        Classifier(store=classifiers, **settings)


def test_a_model_that_is_not_there_is_refused(classifiers) -> None:
    with pytest.raises(ModelNotFound):
        Classifier(store=classifiers, model="nothing", hold={"star": 0.5})


def test_a_generator_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="family"):
        Classifier(store=Store(tmp_path), model="shapes-cgan", hold={"star": 0.5})


def test_a_changed_file_is_not_opened(tmp_path: Path) -> None:
    source = CLASSIFIERS / "shapes-classifier"
    target = tmp_path / "catalog" / "shapes-classifier"
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    graph = target / "classifier.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    changed = Store(tmp_path / "store", catalogs=(tmp_path / "catalog",))
    with pytest.raises(IntegrityFailure):
        Classifier(store=changed, model="shapes-classifier", hold={"star": 0.5})


@pytest.mark.slow
def test_a_classifier_that_a_user_adds_can_be_used_and_is_not_served(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", catalogs=())
    add_model(store, CLASSIFIERS / "shapes-classifier", name="my-classifier")
    policy = Classifier(store=store, model="my-classifier", refuse={"star": 0.5})
    assert policy.scores(np.zeros((3, 32, 32), np.uint8))
