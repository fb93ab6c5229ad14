"""Several policies: the strictest wins, and one that fails fails closed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from services.core.errors import InvalidImage, InvalidParameter
from services.core.images import encode
from services.core.job import Call, Encoding, Task
from services.policies.interface import (
    ALLOWED,
    Action,
    Asked,
    Decision,
    ImagePolicy,
    PromptPolicy,
    strictest,
)
from services.policies.judging import Judge, texts_of
from services.policies.loading import Loaded, load
from services.policies.settings import PolicyRule


class Says(PromptPolicy):
    def __init__(self, action: str = "allow") -> None:
        self.action, self.asked = Action(action), 0

    def judge(self, _texts: Any, _asked: Asked) -> Decision:
        self.asked += 1
        return Decision(self.action, "because")


class SaysLater(PromptPolicy):
    async def judge(self, _texts: Any, _asked: Asked) -> Decision:
        await asyncio.sleep(0)
        return Decision(Action.HOLD, "later")


class Breaks(PromptPolicy):
    def judge(self, _texts: Any, _asked: Asked) -> Decision:
        raise RuntimeError(f"cannot read {_texts}")


class Confused(PromptPolicy):
    def judge(self, _texts: Any, _asked: Asked) -> Any:
        return True


class Hangs(PromptPolicy):
    def __init__(self) -> None:
        self.over = threading.Event()

    def judge(self, _texts: Any, _asked: Asked) -> Decision:
        self.over.wait()
        return ALLOWED


class Dark(ImagePolicy):
    def judge(self, image: Any, _asked: Asked) -> Decision:
        assert image.shape[0] == 3
        return Decision(Action.REFUSE, "dark") if image.mean() < 50 else ALLOWED


def _call(**more: Any) -> Call:
    return Call(
        "r1", "m", Task.GENERATE, {"prompt": "a star", **more.pop("parameters", {})}, **more
    )


def _rule(name: str, **more: Any) -> PolicyRule:
    return PolicyRule(name=name, use="x", **more)


@pytest.fixture
def counted() -> Counter[tuple[str, str]]:
    return Counter()


@pytest.fixture
def judge(counted: Counter[tuple[str, str]]) -> Iterator[Any]:
    made: list[Judge] = []

    def build(*loaded: Loaded) -> Judge:
        made.append(Judge(loaded, count=lambda *what: counted.update([what])))
        return made[-1]

    yield build
    for one in made:
        one.close()


def _picture(value: int, channels: int = 3) -> bytes:
    return encode(np.full((channels, 8, 8), value, np.uint8), Encoding())


def test_the_strictest_decision_wins_and_the_first_of_equals_is_named() -> None:
    decisions = [
        ALLOWED,
        Decision(Action.HOLD, policy="first"),
        Decision(Action.HOLD, policy="second"),
    ]
    assert strictest(decisions).policy == "first"
    assert strictest([*decisions, Decision(Action.REFUSE, policy="last")]).policy == "last"
    assert strictest([]) is ALLOWED


async def test_a_refusal_ends_the_asking(judge, counted) -> None:
    never = Says("allow")
    found = await judge(
        Loaded(_rule("later"), SaysLater()),
        Loaded(_rule("no"), Says("refuse")),
        Loaded(_rule("never"), never),
    ).prompt(_call())
    assert (found.action, found.policy) == (Action.REFUSE, "no")
    assert never.asked == 0
    assert counted == {("later", "hold"): 1, ("no", "refuse"): 1}


@pytest.mark.parametrize("policy", [Breaks, Confused])
@pytest.mark.parametrize("outcome", ["refuse", "hold", "allow"])
async def test_a_policy_that_crashes_does_what_its_rule_says(
    judge, counted, policy, outcome, caplog
) -> None:
    found = await judge(Loaded(_rule("broken", on_failure=outcome), policy())).prompt(_call())
    assert found.action.value == outcome
    assert counted == {("broken", "failed"): 1, ("broken", outcome): 1}
    assert "a star" not in caplog.text + found.reason


async def test_a_policy_that_hangs_is_given_up_and_fails_closed(judge, counted) -> None:
    hangs = Hangs()
    try:
        found = await judge(Loaded(_rule("slow", timeout=0.05), hangs)).prompt(_call())
    finally:
        hangs.over.set()
    assert found.action is Action.REFUSE
    assert counted[("slow", "failed")] == 1


async def test_policies_that_all_hang_do_not_hang_the_service(judge) -> None:
    hangs = Hangs()
    slow = judge(Loaded(_rule("slow", timeout=0.05), hangs))
    try:
        found = await asyncio.gather(*(slow.prompt(_call()) for _ in range(12)))
    finally:
        hangs.over.set()
    assert {decision.action for decision in found} == {Action.REFUSE}


async def test_a_blocking_policy_leaves_the_event_loop_free(judge) -> None:
    hangs = Hangs()
    asking = asyncio.create_task(judge(Loaded(_rule("slow"), hangs)).prompt(_call()))
    await asyncio.sleep(0)  # the loop turns while the policy waits
    assert not asking.done()
    hangs.over.set()
    assert (await asking).action is Action.ALLOW


async def test_a_rule_concerns_the_models_that_it_names(judge) -> None:
    found = judge(Loaded(_rule("no", models=("other",)), Says("refuse")))
    assert (await found.prompt(_call())).action is Action.ALLOW
    assert not found.concerns("m")
    assert found.concerns("other")


async def test_images_are_judged_going_in_and_coming_out(judge) -> None:
    dark = Loaded(_rule("dark"), Dark())
    both = judge(dark)
    assert (await both.prompt(_call(images=(_picture(0),)))).policy == "dark"
    assert (await both.prompt(_call(controls=(_picture(0),)))).policy == "dark"
    assert (await both.made(_call(), [_picture(200), _picture(0, channels=1)])).policy == "dark"
    outputs = judge(Loaded(_rule("dark", images=("output",)), Dark()))
    assert (await outputs.prompt(_call(images=(_picture(0),)))).action is Action.ALLOW
    assert outputs.looks_at_outputs("m")
    inputs = judge(Loaded(_rule("dark", images=("input",)), Dark()))
    assert not inputs.looks_at_outputs("m")


async def test_an_uploaded_image_that_cannot_be_read_is_the_clients_error(judge) -> None:
    with pytest.raises(InvalidImage):
        await judge(Loaded(_rule("dark"), Dark())).prompt(_call(images=(_picture(0)[:40],)))


def test_every_text_is_judged_wherever_it_stands() -> None:
    found = texts_of(
        {
            "prompt": "a",
            "negative_prompt": "b",
            "prompts": [{"prompt": "c", "weight": 2.0}, {"prompt": "d"}],
            "factors": {"shape": "e"},
            "label": "f",
            "a_field_of_tomorrow": {"deep": [{"down": "g"}]},
            "latents": {"data": "AAAA", "shape": [1]},
            "steps": 3,
        }
    )
    assert sorted(text for texts in found.values() for text in texts) == list("abcdefg")


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"use": "no_such"}, "there is no policy 'no_such'; there are block_list"),
        ({"use": "block_list"}, "does not take its settings"),
        ({"use": "block_list", "settings": {"file": "/none", "word": 1}}, "does not take"),
        ({"use": "block_list", "settings": {"file": "/no/such"}}, "policy 'words'.*cannot be read"),
    ],
)
def test_a_rule_that_cannot_be_used_stops_the_service_from_starting(rule, complaint) -> None:
    with pytest.raises(InvalidParameter, match=complaint):
        load([PolicyRule(name="words", **rule)])


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="neither a PromptPolicy nor an ImagePolicy"):
        load([_rule("odd")], {"x": object})


def test_a_policy_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch) -> None:
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[atelier.policies]\nmine = plugged_in_policy:Mine\n")
    (tmp_path / "plugged_in_policy.py").write_text(
        "from services.policies.interface import ALLOWED, PromptPolicy\n"
        "class Mine(PromptPolicy):\n"
        "    def __init__(self, *, level): self.level = level\n"
        "    def judge(self, texts, asked): return ALLOWED\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (loaded,) = load([PolicyRule(name="mine", use="mine", settings={"level": 3})])
    assert loaded.policy.level == 3  # type: ignore[union-attr]  # it is Mine
