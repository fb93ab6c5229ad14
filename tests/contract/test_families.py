"""What every family promises. A new family is tested by existing, once it has a tiny model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.job import Call, Job, Task
from services.core.trajectory import Result
from services.families import discover
from services.families.latent import MAX_FRAMES, MAX_IMAGES
from tests.contract.smallest_calls import WITHOUT_IMAGE, minimal, shape_of
from tests.engines import ask, carry, ready, some_pixels
from tests.tiny_models import MODELS

FAMILIES = pytest.mark.parametrize("family", sorted(discover()))
EVERY_OPERATION = (
    "generate", "likelihood", "encode", "interpolate", "variation", "inpaint", "outpaint", "invert",
    "reconstruct", "super_resolution", "traverse", "translate", "style_mix", "attribute",
)  # fmt: skip


@pytest.fixture
def engine(family: str) -> Engine:
    assert family in MODELS, f"give the family '{family}' a tiny model in tests/tiny_models.py"
    return ready(MODELS[family]())


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
