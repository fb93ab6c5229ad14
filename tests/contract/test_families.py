"""What every family promises. A new family is tested by existing, once it has a tiny model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.images import ImageLimits, decode
from services.core.job import Answer, Call, Job, Task
from services.core.trajectory import Result
from services.families import discover
from services.families.latent import MAX_FRAMES, MAX_IMAGES
from services.sampling.samplers import samplers_for
from services.sampling.schedule import VariancePreserving
from services.serving.in_process import InProcessBackend
from tests.engines import ask, call, carry, ready, some_pixels
from tests.tiny_models import MODELS, one_of_each

FAMILIES = pytest.mark.parametrize("family", sorted(discover()))
EVERY_OPERATION = (
    "generate", "likelihood", "encode", "interpolate", "variation", "inpaint", "outpaint", "invert",
    "reconstruct", "super_resolution", "traverse", "translate", "style_mix", "attribute",
)  # fmt: skip
WITHOUT_IMAGE = ("generate", "interpolate", "traverse", "style_mix", "attribute")


@pytest.fixture
def engine(family: str) -> Engine:
    assert family in MODELS, f"give the family '{family}' a tiny model in tests/tiny_models.py"
    return ready(MODELS[family]())


@dataclass(frozen=True)
class Shape:
    """What a model's images look like, and which operations it has.

    ``shrunken`` is by how much smaller the images are that it is given than those that it makes.
    """

    model: str
    channels: int
    height: int
    width: int
    operations: dict[str, dict[str, Any]]
    shrunken: int = 1

    @property
    def counted(self) -> str | None:
        """An operation that makes ``n`` images, each by its own seed; some families have none."""
        able = [name for name, schema in self.operations.items() if "n" in schema["properties"]]
        return "generate" if "generate" in able else min(able, default=None)


def shape_of(engine: Engine) -> Shape:
    info = engine.describe()
    return Shape(
        info.id,
        info.channels,
        *info.resolution,
        operations=info.operations,
        shrunken=info.limits.get("factor", 1),
    )


def minimal(shape: Shape, name: str, seed: int = 0, **parameters: Any) -> Call:
    """The smallest call of an operation; images and a mask where its kind needs them."""
    sides = shape.height // shape.shrunken, shape.width // shape.shrunken
    image = some_pixels(shape.channels, *sides, seed=seed)
    needs_image = name not in WITHOUT_IMAGE
    mask = None
    if name == "outpaint":
        parameters = {"left": shape.width // 4, **parameters}
    if name == "invert":
        parameters = {"steps": 3, **parameters}
    if name == "attribute":
        parameters = {"channels": {"0": 0.5}, **parameters}
    if name == "inpaint":
        mask = np.zeros((1, shape.height, shape.width), np.uint8)
        mask[0, : shape.height // 2] = 255
    return call(
        name,
        model=shape.model,
        images=[image] if needs_image else [],
        mask=mask,
        seed=seed,
        **parameters,
    )


def same(first: Result, second: Result) -> bool:
    if first.pixels is None or second.pixels is None:
        pixels = first.pixels is second.pixels
    else:
        pixels = np.array_equal(first.pixels, second.pixels)
    return pixels and dict(first.values) == dict(second.values)


@FAMILIES
def test_a_model_describes_itself_as_plain_json(engine: Engine) -> None:
    info = engine.describe()
    assert json.loads(json.dumps(info.operations))
    assert set(info.operations) == set(engine.operations())
    assert set(info.tasks) & {"generate", "edit"}
    assert info.likelihood in ("exact", "lower_bound", "estimate", "none")
    assert (info.likelihood == "none") == ("likelihood" not in info.operations)
    assert info.family in discover()


@FAMILIES
def test_every_parameter_has_bounds_or_a_choice_in_its_schema(engine: Engine) -> None:
    """Numbers without a limit are how a request takes a replica down."""
    for name, schema in engine.describe().operations.items():
        for field, definition in schema["properties"].items():
            kinds = [definition, *definition.get("anyOf", [])]
            for kind in kinds:
                if kind.get("type") in ("integer", "number") and field != "label":
                    limits = {"maximum", "exclusiveMaximum"} & kind.keys()
                    assert limits, f"{name}.{field} is unbounded"


@FAMILIES
def test_every_operation_answers_its_smallest_call(engine: Engine) -> None:
    shape = shape_of(engine)
    for name in engine.operations():
        results = carry(engine, engine.jobs(minimal(shape, name)))
        assert results, name
        for result in results:
            json.dumps(dict(result.values), allow_nan=False)
            if result.pixels is not None:
                assert result.pixels.shape == (shape.channels, shape.height, shape.width)
                assert result.pixels.dtype == np.uint8


@FAMILIES
def test_every_operation_that_is_not_offered_is_refused_with_a_reason(engine: Engine) -> None:
    shape = shape_of(engine)
    for name in EVERY_OPERATION:
        if name in engine.operations():
            continue
        with pytest.raises(UnsupportedTask) as caught:
            engine.jobs(minimal(shape, name))
        assert shape.model in caught.value.message
        assert caught.value.param == "model"


@FAMILIES
def test_same_seed_same_answer_and_another_seed_another_image(engine: Engine) -> None:
    shape = shape_of(engine)
    for name in engine.operations():
        first, second = (carry(engine, engine.jobs(minimal(shape, name))) for _ in range(2))
        assert all(same(a, b) for a, b in zip(first, second, strict=True)), name
    if shape.counted is None:
        return
    image = some_pixels(shape.channels, shape.height // shape.shrunken, shape.width)
    needed = () if shape.counted in WITHOUT_IMAGE else (image,)
    one, other = (ask(engine, shape.counted, images=needed, seed=seed)[0] for seed in (1, 2))
    assert not same(one, other)


@FAMILIES
def test_an_engine_answers_every_row_the_same_in_any_company(engine: Engine) -> None:
    """All operations at once: rows are prepared, stepped and decoded in shared batches."""
    shape = shape_of(engine)
    jobs = [
        job
        for seed in range(3)
        for name in engine.operations()
        for job in engine.jobs(minimal(shape, name, seed=seed))
    ]
    together = engine.prepare(jobs)
    while unfinished := [t for t in together if not t.finished]:
        engine.step(unfinished)
    by_kind: dict[Any, list[int]] = {}
    for i, trajectory in enumerate(together):
        by_kind.setdefault(trajectory.workload.decode, []).append(i)
    for places in by_kind.values():
        for i, result in zip(places, engine.decode([together[i] for i in places]), strict=True):
            assert same(result, carry(engine, [jobs[i]])[0]), jobs[i].name


@FAMILIES
def test_a_step_moves_every_row_on_by_one(engine: Engine) -> None:
    shape = shape_of(engine)
    for name in engine.operations():
        batch = engine.prepare(engine.jobs(minimal(shape, name)))
        expected = [t.workload.evaluations for t in batch]
        assert expected == [engine.workload(t.job).evaluations for t in batch]
        for done in range(max(expected)):
            flying = [t for t in batch if not t.finished]
            assert all(t.index == done for t in flying)
            engine.step(flying)
        assert all(t.finished for t in batch), name


@FAMILIES
def test_the_rehearsal_covers_every_kind_of_evaluation_that_requests_need(engine: Engine) -> None:
    """A kind that needs a part which is opened late is rehearsed when that is opened."""
    rehearsed = [engine.workload(job) for job in engine.rehearsal()]
    shape = shape_of(engine)
    for name in engine.operations():
        job = engine.jobs(minimal(shape, name))[0]
        part, load = engine.late_part(job), engine.workload(job)
        if part is not None:
            rehearsed += [engine.workload(late) for late in engine.open_late(part)]
        if load.evaluations:
            assert load.step in {w.step for w in rehearsed}, name
    assert all(w.evaluations == 0 or w.evaluations >= REHEARSED_STEPS for w in rehearsed)


@FAMILIES
def test_unknown_fields_wrong_types_and_impossible_numbers_are_refused_by_name(
    engine: Engine,
) -> None:
    shape = shape_of(engine)
    bad: list[dict[str, Any]] = [
        {"stepz": 1},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.5},
        {"seed": "seven"},
        {"seed": float("nan")},
        {"seed": [1]},
    ]
    for name in engine.operations():
        for fields in bad:
            (field,) = fields
            smallest = minimal(shape, name)
            parameters = {**smallest.parameters, **fields}
            with pytest.raises(InvalidParameter) as caught:
                engine.jobs(Call(**{**_fields(smallest), "parameters": parameters}))
            assert caught.value.param == field
    counted = shape.counted or min(shape.operations)
    for field, value in (("n", 0), ("n", MAX_IMAGES + 1), ("n", 1e300), ("n", None)):
        with pytest.raises(InvalidParameter) as caught:
            engine.jobs(minimal(shape, counted, **{field: value}))
        assert caught.value.param == field
    if "interpolate" in engine.operations():
        with pytest.raises(InvalidParameter):
            engine.jobs(minimal(shape, "interpolate", n=MAX_FRAMES + 1))


def _fields(value: Call) -> dict[str, Any]:
    return {name: getattr(value, name) for name in Call.__slots__}


@FAMILIES
def test_an_edit_without_an_operation_is_told_which_there_are(engine: Engine) -> None:
    edits = [name for name in engine.operations() if engine.task_of(name) is Task.EDIT]
    with pytest.raises(InvalidParameter, match=edits[-1] if edits else "offers none") as caught:
        engine.jobs(Call("edit", engine.model.id, Task.EDIT))
    assert caught.value.param == "operation"


@FAMILIES
def test_n_rows_have_consecutive_seeds_and_places(engine: Engine) -> None:
    shape = shape_of(engine)
    if shape.counted is None:
        pytest.skip("one image, one answer: nothing is counted")
    jobs: list[Job[Any]] = engine.jobs(minimal(shape, shape.counted, seed=40, n=3))
    assert [(job.seed, job.index) for job in jobs] == [(40, 0), (41, 1), (42, 2)]
    assert len({job.id for job in jobs}) == 3


SHAPES = {family: shape_of(ready(build())) for family, build in MODELS.items()}
SEEDS = st.integers(0, 5)


def gan_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields = {"truncation": draw(st.sampled_from([1.0, 0.7, 0.3]))}
    return fields | {"label": draw(st.sampled_from([None, 0, "green"]))}


def likelihood_samples(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    return {"samples": draw(st.sampled_from([1, 2, 5]))} if name == "likelihood" else {}


COMPOSED = [{"prompt": "red", "weight": 0.8}, {"prompt": "square", "weight": 0.6}]
DETERMINISTIC = ("ddim", "heun", "dpmpp_2m")
SAMPLERS = samplers_for(VariancePreserving())
OWN_TIMES = ("ddpm", "ddim", "pndm", "lcm")


def diffusion_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": draw(st.sampled_from(["", "red circle", "a blue square"]))}
    if name == "likelihood":
        return fields | {"steps": draw(st.integers(2, 4)), "samples": draw(st.integers(1, 2))}
    if name == "encode":
        return fields | {"steps": draw(st.integers(2, 4))}
    fields["sampler"] = draw(st.sampled_from(DETERMINISTIC if name == "invert" else SAMPLERS))
    fields["steps"] = draw(st.integers(1, 5))
    if fields["sampler"] not in OWN_TIMES:
        fields["sigma_schedule"] = draw(st.sampled_from([None, "karras", "exponential", "beta"]))
    fields["guidance_scale"] = draw(st.sampled_from([1.0, 1.0, 0.0, 2.5, 7.5]))
    fields["negative_prompt"] = draw(st.sampled_from(["", "green"]))
    fields["guidance_interval"] = draw(st.sampled_from([[0.0, 1.0], [0.2, 0.6]]))
    fields["guidance_rescale"] = draw(st.sampled_from([0.0, 0.0, 0.7]))
    fields |= draw(st.sampled_from([{}, {}, {"adaptive_guidance": 0.9}, {"prompts": COMPOSED}]))
    if "prompts" in fields:
        del fields["prompt"]
    if name in ("variation", "invert"):
        fields["strength"] = draw(st.sampled_from([0.3, 0.8]))
    return fields


def super_resolution_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    return {
        "sampler": draw(st.sampled_from(SAMPLERS)),
        "steps": draw(st.integers(1, 5)),
        "n": draw(st.integers(1, 3)),
    }


def density_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    fields = {"label": draw(st.sampled_from([None, 0, "green"]))}
    return fields | likelihood_samples(draw, name)


def autoregressive_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    if name in ("reconstruct", "encode"):
        return {}
    fields: dict[str, Any] = {"prompt": draw(st.sampled_from(["", "red circle", "a blue square"]))}
    if name == "likelihood":
        return fields
    return fields | {
        "temperature": draw(st.sampled_from([0.3, 1.0, 2.0])),
        "top_k": draw(st.sampled_from([0, 1, 3])),
        "top_p": draw(st.sampled_from([1.0, 0.7])),
        "guidance_scale": draw(st.sampled_from([1.0, 0.0, 2.5])),
    }


def stylegan_fields(draw: Callable[[Any], Any], name: str) -> dict[str, Any]:
    if name in ("reconstruct", "encode"):
        return {}
    fields: dict[str, Any] = {}
    if name in ("attribute", "invert"):
        fields["attributes"] = draw(st.sampled_from([{}, {"size": 2.0, "pca_1": -1.5}]))
        fields["layers"] = draw(st.sampled_from([None, [0, 1]]))
    if name == "invert":
        return fields | {"steps": draw(st.integers(1, 4))}
    if name == "style_mix":
        fields["layer"] = draw(st.integers(0, 4))
    if name == "traverse":
        fields |= draw(st.sampled_from([{}, {"attribute": "size"}, {"latent_space": "w"}]))
    fields["truncation"] = draw(st.sampled_from([1.0, 0.6, 0.0]))
    fields["noise_strength"] = draw(st.sampled_from([None, 0.0, 0.5]))
    return fields


FIELDS: dict[str, Callable[[Callable[[Any], Any], str], dict[str, Any]]] = {
    "autoregressive": autoregressive_fields,
    "gan": gan_fields,
    "vae": likelihood_samples,
    "flow": likelihood_samples,
    "density": density_fields,
    "diffusion": diffusion_fields,
    "super_resolution": super_resolution_fields,
    "stylegan": stylegan_fields,
}
"""What requests of a family vary in, beyond seeds and counts."""


@st.composite
def requests(draw: Callable[[Any], Any]) -> Call:
    """Any request that a family's tiny model takes."""
    family = draw(st.sampled_from(sorted(SHAPES)))
    shape = SHAPES[family]
    name = draw(st.sampled_from(sorted(shape.operations)))
    fields = FIELDS[family](draw, name) if family in FIELDS else {}
    if name == "generate":
        fields["n"] = draw(st.integers(1, 3))
    if name == "interpolate":
        fields["n"] = draw(st.integers(2, 3))
        fields["spherical"] = draw(st.booleans())
    return minimal(shape, name, seed=draw(SEEDS), **fields)


class Alone:
    """Every request's answer when nobody else asks; each is asked for once."""

    def __init__(self) -> None:
        self._engines = {f"tiny-{family}": ready(build()) for family, build in MODELS.items()}
        self._known: dict[str, list[Result]] = {}

    def __call__(self, wanted: Call) -> list[Result]:
        key = f"{wanted.model} {wanted.name} {dict(wanted.parameters)}"
        if key not in self._known:
            engine = self._engines[wanted.model]
            jobs = engine.jobs(wanted)
            self._known[key] = [carry(engine, [job])[0] for job in jobs]
        return self._known[key]


@pytest.fixture(scope="module")
def backend() -> Iterator[InProcessBackend]:
    found = InProcessBackend(one_of_each(), discover())
    yield found
    found.close()


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mix=st.lists(requests(), min_size=2, max_size=7))
def test_any_mix_of_requests_gives_each_the_answer_that_it_gets_alone(
    backend: InProcessBackend, alone: Alone, mix: list[Call]
) -> None:
    """Bitwise, through the loop: pixels and every value beside them."""

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(backend.run(one) for one in mix))

    for wanted, answer in zip(mix, asyncio.run(all_at_once()), strict=True):
        expected = alone(wanted)
        assert len(answer.items) == len(expected)
        for item, result in zip(answer.items, expected, strict=True):
            assert dict(item.values) == dict(result.values)
            if result.pixels is None:
                assert item.image is None
                continue
            assert item.image is not None
            assert np.array_equal(_decoded(item.image, result.pixels.shape), result.pixels)


def _decoded(data: bytes, shape: tuple[int, ...]) -> Any:
    return decode(data, (shape[1], shape[2]), shape[0], ImageLimits())
