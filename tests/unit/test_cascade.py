"""Cascades: what one model generates, another enlarges, in one request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.core.errors import (
    AtelierError,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InvalidParameter,
    ModelNotFound,
    UnsupportedTask,
)
from services.core.images import ImageLimits, decode
from services.core.job import Call, CallFinished, Encoding, Progress, RowFinished, Task, Watch
from services.families import discover
from services.gateway.answers import json_answer
from services.serving.cascade import Cascades
from services.serving.in_process import InProcessBackend
from tests.scripted import PATIENCE
from tests.tiny_models import one_of_each

BASE, SECOND = "tiny-diffusion", "tiny-super_resolution"


@pytest.fixture(scope="module")
def inner() -> Iterator[InProcessBackend]:
    found = InProcessBackend(one_of_each(), discover())
    yield found
    found.close()


@pytest.fixture
def cascades(inner: InProcessBackend) -> Cascades:
    return Cascades(inner)


def asked(**parameters: Any) -> Call:
    given = {"prompt": "red circle", "seed": 5, "cascade": SECOND, **parameters}
    return Call("c", BASE, Task.GENERATE, parameters=given)


def pixels(image: bytes | None) -> Any:
    assert image is not None
    return decode(image, None, 3, ImageLimits())


def test_one_request_gives_the_image_that_two_give(
    cascades: Cascades, inner: InProcessBackend
) -> None:
    answer = asyncio.run(cascades.run(asked(n=2)))

    async def by_hand() -> list[Any]:
        base = Call(
            "b", BASE, Task.GENERATE, parameters={"prompt": "red circle", "seed": 5, "n": 2}
        )
        found = []
        for row, item in enumerate((await inner.run(base)).items):
            assert item.image is not None
            second = Call(
                "s",
                SECOND,
                Task.EDIT,
                parameters={"seed": 5 + row},
                operation="super_resolution",
                images=(item.image,),
            )
            found.append(pixels((await inner.run(second)).items[0].image))
        return found

    expected = asyncio.run(by_hand())
    assert [pixels(item.image).shape for item in answer.items] == [(3, 16, 16)] * 2
    for item, wanted in zip(answer.items, expected, strict=True):
        assert np.array_equal(pixels(item.image), wanted)
    assert [item.values["seed"] for item in answer.items] == [5, 6]
    assert answer.model == BASE


def test_the_timings_of_both_models_are_told_and_add_up(cascades: Cascades) -> None:
    answer = asyncio.run(cascades.run(asked()))
    assert [stage.model for stage in answer.stages] == [BASE, SECOND]
    total = sum(stage.timings.step for stage in answer.stages)
    assert answer.timings.step == pytest.approx(total)
    assert all(stage.timings.step > 0 for stage in answer.stages)
    assert answer.device_seconds > 0


def test_the_second_call_is_on_the_account_of_whoever_made_the_first(
    inner: InProcessBackend,
) -> None:
    heard: list[Call] = []

    class Listening(Cascades):
        """Takes down what the other backend is asked."""

        async def run(self, call: Call) -> Any:
            heard.append(call)
            return await super().run(call)

    told = replace(asked(n=2), tenant="someone", weight=2.0)
    asyncio.run(Cascades(Listening(inner)).run(told))
    assert [call.name for call in heard] == ["generate", "super_resolution", "super_resolution"]
    assert {(call.tenant, call.weight) for call in heard} == {("someone", 2.0)}


def test_the_answer_has_the_format_that_was_asked_for_and_nothing_was_lost_before(
    cascades: Cascades,
) -> None:
    lossless = asyncio.run(cascades.run(asked())).items[0].image
    webp = replace(asked(), encoding=Encoding("webp", 100))
    image = asyncio.run(cascades.run(webp)).items[0].image
    assert image is not None
    assert image[8:12] == b"WEBP"
    assert np.array_equal(pixels(image), pixels(lossless))


def test_a_call_without_a_cascade_is_the_other_backends_own(
    cascades: Cascades, inner: InProcessBackend
) -> None:
    plain = Call("p", BASE, Task.GENERATE, parameters={"seed": 3})
    ours, theirs = asyncio.run(cascades.run(plain)), asyncio.run(inner.run(plain))
    assert ours.items == theirs.items
    assert ours.stages == ()


def test_a_stream_counts_the_steps_of_both_and_ends_with_the_image_of_run(
    cascades: Cascades,
) -> None:
    async def events() -> list[Any]:
        return [event async for event in cascades.stream(asked(), Watch())]

    found = asyncio.run(events())
    (image,) = [event for event in found if isinstance(event, RowFinished)]
    whole = asyncio.run(cascades.run(asked())).items[0]
    assert np.array_equal(pixels(image.item.image), pixels(whole.image))
    assert dict(image.item.values) == dict(whole.values)
    steps = [event.step for event in found if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert steps[-1] <= 4 + 3
    assert steps[-1] > 4
    assert isinstance(found[-1], CallFinished)


@pytest.mark.parametrize(
    ("second", "error", "words"),
    [
        ("tiny-super", ModelNotFound, "no model"),
        ("tiny-gan", UnsupportedTask, SECOND),
        (7, InvalidParameter, "name of a model"),
    ],
)
def test_a_second_model_that_cannot_be_is_refused_before_any_work(
    cascades: Cascades, second: Any, error: type[AtelierError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        asyncio.run(cascades.run(asked(cascade=second)))
    assert caught.value.param == "cascade"


class Sized(InProcessBackend):
    """Says that its enlarging model takes larger images than the first model makes."""

    async def model(self, name: str) -> Any:
        info = await super().model(name)
        return replace(info, limits={**info.limits, "input_sides": [32, 64]})


def test_images_of_a_size_that_cannot_be_enlarged_are_refused_before_any_work() -> None:
    inner = Sized(one_of_each(), discover())
    try:
        with pytest.raises(InvalidParameter, match="32 to 64") as caught:
            asyncio.run(Cascades(inner).run(asked()))
        assert caught.value.param == "cascade"
    finally:
        inner.close()


@pytest.mark.parametrize("task", [Task.LIKELIHOOD, Task.EDIT])
def test_only_generate_has_cascades(cascades: Cascades, task: Task) -> None:
    call = replace(asked(), task=task, operation="variation" if task is Task.EDIT else None)
    with pytest.raises(InvalidParameter) as caught:
        asyncio.run(cascades.run(call))
    assert caught.value.param == "cascade"


def test_a_deadline_holds_for_both_together(cascades: Cascades) -> None:
    with pytest.raises((DeadlineExceeded, DeadlineUnmeetable)):
        asyncio.run(cascades.run(replace(asked(), deadline=1e-4)))


def test_withdrawing_frees_the_rows_of_either_stage(inner: InProcessBackend) -> None:
    """Cancelled while the first model works, and while the second does."""
    cascades = Cascades(inner)

    async def withdrawn_after(steps: int) -> None:
        many = asked(steps=900, sampler="euler") if steps < 4 else asked(n=60)
        events = cascades.stream(many, Watch())
        async for event in events:
            if isinstance(event, Progress) and event.step >= steps:
                break
        await events.aclose()
        patient = time.monotonic() + PATIENCE
        while inner.loop.status().trajectories and time.monotonic() < patient:
            await asyncio.sleep(0.01)
        assert inner.loop.status().trajectories == 0

    asyncio.run(withdrawn_after(1))
    asyncio.run(withdrawn_after(5))


def test_an_answer_in_json_tells_the_stages_apart_where_there_are_any(cascades: Cascades) -> None:
    plain = asyncio.run(cascades.run(Call("p", BASE, Task.GENERATE, parameters={"seed": 3})))
    assert "stages" not in json.loads(bytes(json_answer(plain, created=True).body))
    both = asyncio.run(cascades.run(asked()))
    body = json.loads(bytes(json_answer(both, created=True).body))
    assert [stage["model"] for stage in body["stages"]] == [BASE, SECOND]
    told = sum(stage["timings"]["step"] for stage in body["stages"])
    assert body["timings"]["step"] == pytest.approx(told, abs=1e-5)
