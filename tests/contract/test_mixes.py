"""Any mix of any families' requests: each gets the answer that it gets alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.images import ImageLimits, decode
from services.core.job import Answer, Call
from services.core.trajectory import Result
from services.families import discover
from services.serving.in_process import InProcessBackend
from tests.contract.family_fields import FIELDS
from tests.contract.smallest_calls import minimal, shape_of
from tests.engines import carry, ready
from tests.tiny_models import MODELS, one_of_each

SHAPES = {family: shape_of(ready(build())) for family, build in MODELS.items()}
SEEDS = st.integers(0, 5)


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
