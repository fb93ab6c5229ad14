"""Errors cross process boundaries as plain JSON and arrive as what they were."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from services.core.errors import (
    AtelierError,
    HeldForReview,
    InvalidParameter,
    QueueFull,
    from_json,
)
from services.core.validation import explain, near


def every_kind(kind: type[AtelierError] = AtelierError) -> list[type[AtelierError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every_kind(child))]


@pytest.mark.parametrize("kind", every_kind())
def test_every_error_survives_a_journey_as_json(kind: type[AtelierError]) -> None:
    sent = kind("what was wrong", param="steps", retry_after=1.5)
    arrived = from_json(json.loads(json.dumps(sent.to_json())))
    assert type(arrived) is kind
    assert (arrived.message, arrived.param, arrived.retry_after) == ("what was wrong", "steps", 1.5)
    assert str(arrived) == "what was wrong"


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in every_kind()]
    assert len(set(codes)) == len(codes)


def test_what_was_held_is_found_on_the_other_side() -> None:
    sent = HeldForReview("later", policy="words", review="r1", device_seconds=2.0)
    arrived = from_json(json.loads(json.dumps(sent.to_json())))
    assert isinstance(arrived, HeldForReview)
    assert (arrived.policy, arrived.review, arrived.device_seconds) == ("words", "r1", 0.0)
    said = {**sent.to_json(), "review": {"id": "r1"}}  # as the HTTP answer has it
    assert isinstance(from_json(said), HeldForReview)


def test_an_error_of_a_newer_replica_is_still_an_error() -> None:
    arrived = from_json({"code": "not_yet_invented", "message": "later"})
    assert type(arrived) is AtelierError
    assert arrived.message == "later"


def test_an_error_says_no_more_than_it_was_told() -> None:
    told = {"code": "queue_full", "message": "full", "param": None, "retry_after": None}
    assert QueueFull("full").to_json() == told


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int
    prompt: str = ""


def complaint(**values: object) -> InvalidParameter:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(values)
    return explain(caught.value, allowed=Form.model_fields)


def test_a_complaint_names_the_field_and_what_would_be_right() -> None:
    unknown = complaint(steps=1, stepz=2)
    assert unknown.param == "stepz"
    assert unknown.message == "unknown field 'stepz'; it takes prompt, steps"
    assert complaint().message == "field 'steps' is missing"
    wrong = complaint(steps="many")
    assert wrong.param == "steps"
    assert "valid integer" in wrong.message
    assert "(got 'many')" in wrong.message


def test_a_complaint_repeats_no_megabyte() -> None:
    assert len(complaint(steps="x" * 1_000_000).message) < 300
    assert len(complaint(steps=1, **{"y" * 1_000_000: 1}).message) < 300


def test_near_names_are_offered_best_first_and_far_ones_are_not() -> None:
    names = ["shapes-ldm", "shapes-vae", "digits-realnvp"]
    assert near("shapes-lmd", names)[0] == "shapes-ldm"
    assert near("qqqq", names) == []
    assert near("shapes-ldm" * 100_000, names) == []
