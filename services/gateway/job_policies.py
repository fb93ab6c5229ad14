"""Jobs are judged when they are submitted, too: what would be refused is refused at once.

They are judged again when they are worked on: images can be judged only then, and the operator may
have changed the rules meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.core.errors import Withheld
from services.core.job import Call, Task
from services.gateway.exchange import Exchange, Gateway
from services.jobs.bulk_plan import BulkRequest
from services.policies.interface import Decision, strictest

_AT_ONCE = 100
"""Values of a field that are judged together: each asking of a policy has a time limit."""


async def judge_call(gateway: Gateway, exchange: Exchange, call: Call) -> None:
    """Judge the call that a job will be.

    What a policy would hold is accepted: it is made, and then kept for a reviewer.

    Raises:
        ContentPolicyViolation: a policy refuses what is asked for.
        ReviewsFull: a reviewer would have to look, and the queue has no room.
    """
    await _judge(gateway, exchange, [call])


async def judge_bulk(
    gateway: Gateway, exchange: Exchange, asked: BulkRequest, *, model: str, samples: int
) -> None:
    """Judge every text of a bulk job once, however many of its samples have it.

    Args:
        gateway: judges.
        exchange: of the submission.
        asked: what the job is to make.
        model: the model's id.
        samples: how many images that are.

    Raises:
        ContentPolicyViolation, ReviewsFull: as `judge_call`.
    """
    call = Call(exchange.id, model, Task.GENERATE, tenant=exchange.owner)
    parts = list(_parts(asked))
    whole = {**_together(parts), "n": samples, "seed": asked.seed}
    exchange.account.asked(replace(call, parameters=whole))
    await _judge(gateway, exchange, [replace(call, parameters=part) for part in parts])


async def _judge(gateway: Gateway, exchange: Exchange, calls: Sequence[Call]) -> None:
    decisions: list[Decision] = []
    try:
        for call in calls:
            decisions.append(await gateway.foresee(call))
    except Withheld as error:
        exchange.account.withheld(error)
        raise
    exchange.account.foreseen(strictest(decisions))


def _parts(asked: BulkRequest) -> Iterator[Mapping[str, Any]]:
    """All fields of all samples, a bounded number at once."""
    yield asked.common
    for name, values in (asked.grid or {}).items():
        for some in _slices(values):
            yield {name: some}
    for requests in _slices(asked.requests or []):
        yield _together(requests)


def _together(fields: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each field."""
    found: dict[str, list[Any]] = {}
    for one in fields:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def _slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
