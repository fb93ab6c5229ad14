"""What a gateway learns of the cost of calls."""

from __future__ import annotations

from typing import Any

import pytest

from services.core.job import Call, Task
from services.serving.call_costs import KINDS_KEPT, UNKNOWN_SECONDS, CallCosts


def ask(model: str = "m", **parameters: Any) -> Call:
    return Call("c", model, Task.GENERATE, parameters)


def test_cost_is_in_proportion_to_rows_and_steps() -> None:
    costs = CallCosts()
    costs.learn(ask(steps=10), 1.0)
    assert costs.predict(ask(steps=50, n=4)) == pytest.approx(20.0)


def test_kinds_are_apart_and_an_unknown_kind_costs_as_the_model_does() -> None:
    costs = CallCosts()
    for _ in range(100):
        costs.learn(ask(steps=10, sampler="heun"), 2.0)
    assert costs.predict(ask(steps=10, sampler="euler")) == pytest.approx(2.0)
    for _ in range(100):
        costs.learn(ask(steps=10, sampler="euler"), 1.0)
    assert costs.predict(ask(steps=10, sampler="heun")) == pytest.approx(2.0)
    assert costs.predict(ask(steps=10, sampler="euler")) == pytest.approx(1.0)
    assert costs.predict(ask("other")) == UNKNOWN_SECONDS


def test_a_price_follows_what_answers_say() -> None:
    costs = CallCosts()
    costs.learn(ask(), 1.0)
    for _ in range(50):
        costs.learn(ask(), 3.0)
    assert costs.predict(ask()) == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("value", ["many", None, -3, 1e9, [1], {"a": 1}, True])
def test_fields_that_nobody_has_checked_yet_do_no_harm(value: Any) -> None:
    costs = CallCosts()
    found = costs.predict(ask(n=value, steps=value, sampler=value, guidance_scale=value))
    assert found == UNKNOWN_SECONDS


def test_kinds_are_bounded() -> None:
    costs = CallCosts()
    for i in range(KINDS_KEPT + 10):
        costs.learn(ask(f"m{i}"), 1.0)
    assert costs.predict(ask("m0")) == UNKNOWN_SECONDS
    assert costs.predict(ask(f"m{KINDS_KEPT + 9}")) == pytest.approx(1.0)
