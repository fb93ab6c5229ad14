"""Classifier guidance: by Bayes' rule it turns a denoiser of everything into one of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.job import Job
from services.core.network import OpenedModel
from services.sampling.classifier_guidance import class_cotangent, shifted
from services.sampling.schedule import VariancePreserving
from tests.engines import RowByRow, ask, call, floats, opened, pixels_of, ready
from tests.gaussian_data import GaussianData

STD, MEAN = 0.1, 0.5
SHAPE = (1, 2, 2)
SCHEDULE = VariancePreserving()
DATA = GaussianData(STD, SCHEDULE)


def logits_of(x: Tensor, t: Tensor) -> Tensor:
    """``log p(x | class)`` of both classes up to what they share; differentiable by x."""
    alpha, sigma = (float(level) for level in DATA.levels(t))
    variance = (alpha * STD) ** 2 + sigma**2
    along = x.double().flatten(1).sum(1) * alpha * MEAN / variance
    return torch.stack([-along, along], 1).float()


class Classifier(RowByRow):
    """The exact classifier of the two classes, with gradients, row by row."""

    def __init__(self) -> None:
        super().__init__(
            lambda x, t: {"logits": logits_of(x, t)},
            {"x": floats(*SHAPE), "t": floats()},
            ["logits"],
        )
        self.products: list[int] = []

    def vjp(
        self, inputs: Mapping[str, Tensor], *, wrt: str, output: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        if output != "logits":
            raise ValueError(output)
        self.products.append(len(cotangent))
        found = []
        for i, row in enumerate(cotangent):
            x = inputs[wrt][i : i + 1].clone().requires_grad_()
            with torch.enable_grad():
                value = logits_of(x, inputs["t"][i : i + 1])
            found.append((value.detach(), torch.autograd.grad(value, x, row[None])[0]))
        return torch.cat([v for v, _ in found]), torch.cat([g for _, g in found])


def two_classes(classifier: Classifier | None = None) -> OpenedModel:
    """Images whose pixels are all around ``-MEAN`` ("dark") or all around ``MEAN`` ("bright")."""

    def predict(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        alpha, sigma = (float(level) for level in DATA.levels(t))
        bright = float(torch.softmax(logits_of(x, t), 1)[0, 1])
        mean = MEAN * (2 * bright - 1)
        clean = mean + DATA.denoise(x.double() - alpha * mean, alpha, sigma)
        return {"output": clean.float()}

    classifier = classifier or Classifier()
    model = opened(
        "diffusion",
        {
            "denoiser": RowByRow(predict, {"x": floats(*SHAPE), "t": floats()}, ["output"]),
            "classifier": classifier,
        },
        resolution=SHAPE[1:],
        options={
            "schedule": SCHEDULE.model_dump(),
            "prediction_type": "sample",
            "classifier": {"labels": ["dark", "bright"]},
        },
    )
    return replace(model, gradients={"classifier": lambda: classifier})


def means(engine: Engine, **what: Any) -> list[float]:
    """The mean of each image, on [-1, 1]."""
    images = pixels_of(ask(engine, "generate", steps=25, sampler="ddim", **what))
    return [float(one.mean()) / 255 * 2 - 1 for one in images]


def test_the_cotangent_is_the_gradient_of_the_classs_log_probability() -> None:
    logits = torch.randn((5, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    classes = torch.tensor([0, 3, 1, 1, 2])
    picked = torch.log_softmax(logits, 1)[range(5), classes].sum()
    (expected,) = torch.autograd.grad(picked, logits)
    assert torch.allclose(class_cotangent(logits.detach(), classes), expected, atol=1e-6)


def test_the_shift_is_that_of_the_noise_by_algorithm_2() -> None:
    source = torch.Generator().manual_seed(1)
    x, denoised, gradients = torch.randn((3, 4, 2, 3, 3), generator=source, dtype=torch.float64)
    scales = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    alphas = torch.tensor([0.9, 0.5, 0.1, 0.3], dtype=torch.float64)
    sigmas = torch.sqrt(1 - alphas**2)
    alpha, sigma, scale = (v.view(-1, 1, 1, 1) for v in (alphas, sigmas, scales))
    noise = (x - alpha * denoised) / sigma - scale * sigma * gradients
    expected = (x - sigma * noise) / alpha
    found = shifted(denoised, gradients, scales, alphas, sigmas)
    assert torch.allclose(found, expected, atol=1e-12)


def test_pure_noise_is_moved_nowhere() -> None:
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    denoised, gradients = torch.randn((2, 1, 4), generator=torch.Generator().manual_seed(2))
    assert torch.equal(shifted(denoised, gradients, one, zero, one), denoised)


@pytest.mark.parametrize("label", [0, 1])
def test_an_exact_classifier_makes_the_classs_own_denoiser(label: int) -> None:
    """Bayes: the score given a class is the score and the classifier's gradient."""
    engine = ready(two_classes())
    (flying,) = engine.prepare(engine.jobs(call("generate", label=label, steps=9, sampler="ddim")))
    mean = (-MEAN, MEAN)[label]
    while not flying.finished:
        x, level = flying.x.clone(), flying.level  # type: ignore[attr-defined]
        engine.step([flying])
        expected = mean + DATA.denoise(
            x.double() - level.alpha * mean, float(level.alpha), float(level.sigma)
        )
        assert torch.allclose(flying.denoised.double(), expected, atol=2e-3)  # type: ignore[attr-defined]


def test_every_image_is_of_the_class_that_was_asked_for() -> None:
    engine = ready(two_classes())
    assert all(abs(m - MEAN) < 4 * STD / 2 for m in means(engine, label="bright", n=8))
    assert all(abs(m + MEAN) < 4 * STD / 2 for m in means(engine, label="Dark ", n=8))
    free = means(engine, n=16)
    assert min(free) < -0.2 < 0.2 < max(free)
    assert means(engine, label="bright", classifier_scale=0, n=2) == means(engine, n=2)


def test_a_mixed_batch_equals_each_row_alone_bitwise() -> None:
    engine = ready(two_classes())
    kinds: Sequence[dict[str, Any]] = (
        {},
        {"label": 0},
        {"label": 1, "classifier_scale": 4.0, "sampler": "ddpm"},
        {"label": 1, "guidance_interval": [0.25, 0.5]},
        {"label": 0, "sampler": "heun"},
        {"label": 0, "dynamic_threshold": 0.9, "classifier_scale": 20.0},
    )
    jobs: list[Job[Any]] = [
        job for what in kinds for job in engine.jobs(call("generate", steps=8, seed=4, **what))
    ]

    def ends(some: Sequence[Job[Any]]) -> list[Tensor]:
        batch = engine.prepare(some)
        while unfinished := [t for t in batch if not t.finished]:
            engine.step(unfinished)
        return [t.x for t in batch]

    together = ends(jobs)
    assert all(torch.equal(ends([job])[0], x) for job, x in zip(jobs, together, strict=True))
    assert len({x.numpy().tobytes() for x in together}) == len(kinds)


def test_the_classifier_is_asked_for_the_rows_that_it_guides_and_within_their_interval() -> None:
    classifier = Classifier()
    engine = ready(two_classes(classifier))
    jobs = [
        *engine.jobs(call("generate", steps=4, sampler="euler")),
        *engine.jobs(
            call("generate", steps=4, sampler="euler", label=1, guidance_interval=[0.25, 0.75])
        ),
    ]
    assert [engine.workload(job).rows for job in jobs] == [1, 2]
    batch = engine.prepare(jobs)
    rows = []
    while not batch[0].finished:
        rows.append([t.rows for t in batch])
        engine.step(batch)
    assert rows == [[1, 1], [1, 2], [1, 2], [1, 1]]
    assert classifier.products == [1, 1]


def test_a_model_with_a_classifier_says_which_labels_there_are() -> None:
    info = ready(two_classes()).describe()
    assert info.labels == ("dark", "bright")
    assert info.conditioning == ("label",)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"label": "brigt"}, "label", "did you mean bright?"),
        ({"label": 2}, "label", "there are 2, from 0"),
        ({"classifier_scale": 2.0}, "classifier_scale", "known are dark, bright"),
        ({"label": 1, "classifier_scale": 101}, "classifier_scale", "less than or equal to 100"),
        ({"label": 1, "prompt": "x"}, "prompt", "unconditional"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ready(two_classes()).jobs(call("generate", **fields))
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_label_judges_nothing_and_a_classifier_without_gradients_guides_nothing() -> None:
    model = two_classes()
    with pytest.raises(InvalidParameter, match="no labels"):
        ready(model).jobs(call("likelihood", label=1, images=[np.zeros(SHAPE, np.uint8)]))
    with pytest.raises(UnsupportedTask, match="cannot be differentiated") as caught:
        ready(replace(model, gradients={})).jobs(call("generate", label=1))
    assert caught.value.param == "label"


def test_a_model_without_a_classifier_takes_no_scale_for_one() -> None:
    model = two_classes()
    options = {name: value for name, value in model.options.items() if name != "classifier"}
    with pytest.raises(InvalidParameter, match="has no classifier") as caught:
        ready(replace(model, options=options)).jobs(call("generate", classifier_scale=1.0))
    assert caught.value.param == "classifier_scale"
