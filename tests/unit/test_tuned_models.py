"""What an operator sets for single models takes effect, and what cannot is refused at the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.core.parameters import with_defaults
from services.runtime.cost import CostCurve, Costs
from services.serving.local import local_backend, open_store
from services.serving.settings import Deployment, Pool, Tuning
from services.serving.tuned import check_tuning
from tests.engines import call, ready
from tests.tiny_models import tiny_diffusion

MODEL = "digits-ddpm"


def pool(tuning: dict[str, Any], **changes: Any) -> Pool:
    return Pool.model_validate({"name": "p", "tuning": tuning, **changes})


def test_an_operators_rows_take_the_place_of_the_knee_of_their_stage() -> None:
    curve = CostCurve({1: 1.0, 8: 1.0})
    costs = Costs({("step", "a"): curve, ("decode", "a"): CostCurve({1: 1.0, 8: 1.0})})
    costs.fix_knees({"step": 2})
    assert costs.curve("step", "a").knee() == 2
    assert costs.curve("decode", "a").knee() == 8
    assert curve.row_seconds() == pytest.approx(0.5)


def test_work_that_is_measured_later_is_batched_by_an_operators_rows_too() -> None:
    costs = Costs()
    costs.fix_knees({"step": 3})
    assert costs.curve("step", "never measured").knee() == 3
    costs.add(Costs({("step", "late"): CostCurve({1: 1.0, 8: 1.0})}))
    assert costs.curve("step", "late").knee() == 3


async def test_an_operators_defaults_are_those_that_the_model_shows(tmp_path: Path) -> None:
    defaults = {"steps": 7, "sampler": "ddim"}
    tuned = pool({MODEL: {"defaults": defaults}})
    backend = local_backend(tuned, store=open_store(str(tmp_path)))
    try:
        info = await backend.model(MODEL)
        loaded = backend.registry.find(MODEL)
        (job,) = loaded.engine.jobs(call("generate", model=MODEL))
        assert loaded.engine.workload(job).evaluations == 7
        (job,) = loaded.engine.jobs(call("generate", model=MODEL, steps=3))
        assert loaded.engine.workload(job).evaluations == 3
    finally:
        backend.close()
    assert {name: info.limits["defaults"][name] for name in defaults} == defaults
    shown = info.operations["generate"]["properties"]
    assert {name: shown[name]["default"] for name in defaults} == defaults


def test_a_default_interval_of_guidance_holds_unless_a_request_says_otherwise() -> None:
    model = tiny_diffusion()
    defaults = {"steps": 4, "guidance_scale": 3.0, "guidance_interval": [0.0, 0.5]}
    engine = ready(replace(model, options={**model.options, "defaults": defaults}))

    def rows(**asked: Any) -> list[int]:
        (job,) = engine.jobs(call("generate", sampler="euler", **asked))
        (flight,) = engine.prepare([job])
        return [1 + flight.steering.guidance_at(i).needs_unguided for i in range(4)]

    assert rows() == [2, 2, 1, 1]
    assert rows(guidance_interval=[0.5, 1.0]) == [1, 1, 2, 2]
    assert rows(guidance_interval=None) == [2, 2, 2, 2]


def test_a_schema_shows_the_models_defaults_where_it_leaves_them_to_the_model() -> None:
    schema = {"properties": {"steps": {"default": None}, "n": {"default": 1}, "label": {}}}
    shown = with_defaults(schema, {"steps": 5, "n": 4, "label": 3, "sampler": None})
    assert shown["properties"] == {"steps": {"default": 5}, "n": {"default": 1}, "label": {}}


@pytest.mark.parametrize(
    ("model", "tuning", "said"),
    [
        ("no-such-model", {"threads": 1}, "there is no model 'no-such-model'"),
        ("digits-dcgan", {"defaults": {"steps": 3}}, "unknown field 'defaults'"),
        (MODEL, {"defaults": {"steps": 0}}, "greater than or equal to 1"),
        (MODEL, {"defaults": {"sampler": "fast"}}, "sampler"),
        (MODEL, {"defaults": {"guidance_interval": [0.9, 0.1]}}, "before the end"),
    ],
)
def test_a_tuning_that_cannot_take_effect_is_refused(
    tmp_path: Path, model: str, tuning: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said):
        check_tuning([pool({model: tuning})], str(tmp_path))


def test_a_tuning_that_can_take_effect_is_not_refused(tmp_path: Path) -> None:
    tuning = {"step_rows": 4, "threads": 1, "export": "onnx", "defaults": {"steps": 9}}
    check_tuning([pool({MODEL: tuning})], str(tmp_path))


@pytest.mark.parametrize(
    "tuning",
    [{"step_rows": 0}, {"decode_rows": 65}, {"threads": 0}, {"export": "pickle"}, {"speed": 2}],
)
def test_values_out_of_range_are_refused(tuning: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Tuning.model_validate(tuning)


def test_a_pool_tunes_only_what_it_serves() -> None:
    with pytest.raises(ValidationError, match="which it does not serve"):
        pool({MODEL: {"threads": 1}}, models=["shapes-vae"])
    other = {"name": "q", "models": [MODEL]}
    mine = {"name": "p", "tuning": {MODEL: {"threads": 1}}}
    with pytest.raises(ValidationError, match="which another pool serves"):
        Deployment.model_validate({"pools": [mine, other]})


def test_every_family_that_has_defaults_says_so_in_its_limits(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    backend = local_backend(store=store)
    try:
        for name in backend.registry.names():
            options = store.get(name).options
            if "defaults" in options:
                assert "defaults" in backend.registry.describe(name).limits
    finally:
        backend.close()
