"""How many replicas a pool is to have."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig

from services.serving import autoscaling
from services.serving.app import _autoscaling
from services.serving.autoscaling import FULLEST, OFFERED, QUEUE, QueuePolicy, wanted_replicas
from services.serving.settings import TARGET_QUEUE_SECONDS, Autoscaling, Pool


def context(
    queues: list[float] | None = None,
    offers: list[float] | None = None,
    *,
    replicas: int | None = None,
    target: int = 3,
    requests: float = 0.0,
) -> Any:
    def by_replica(values: list[float]) -> dict[str, float]:
        return {f"r{i}": value for i, value in enumerate(values)}

    recorded = {QUEUE: by_replica(queues or []), OFFERED: by_replica(offers or [])}
    return SimpleNamespace(
        aggregated_metrics=recorded if queues is not None else None,
        current_num_replicas=len(queues or []) if replicas is None else replicas,
        target_num_replicas=target,
        total_num_requests=requests,
    )


def test_replicas_are_as_many_as_share_the_queue_as_is_wanted() -> None:
    assert wanted_replicas(queued=12.0, offered=0.0, target_queue_seconds=3.0) == 4.0


def test_replicas_that_are_busy_are_kept_however_short_the_queues_are() -> None:
    assert wanted_replicas(queued=0.1, offered=3.4, target_queue_seconds=2.0) == 3.4 / FULLEST


def test_a_policy_adds_up_what_the_replicas_have_recorded() -> None:
    assert QueuePolicy(2.0)(context([5.0, 7.0], [0.1, 0.1])) == (6.0, {})


def test_a_replica_that_has_recorded_nothing_is_as_the_others() -> None:
    assert QueuePolicy(2.0)(context([6.0, 6.0], [0.0, 0.0], replicas=4)) == (12.0, {})


@pytest.mark.parametrize("known", [context(), context([], []), context([], replicas=2)])
def test_the_number_stays_while_nothing_is_known(known: Any) -> None:
    assert QueuePolicy(2.0)(known) == (3, {})


def test_a_pool_with_nothing_to_do_needs_no_replica_but_what_waits_keeps_one() -> None:
    assert QueuePolicy(2.0)(context([0.0], [0.0])) == (0.0, {})
    assert QueuePolicy(2.0)(context([0.0], [0.0], requests=1.0)) == (1.0, {})


def test_serve_takes_the_policy_as_it_will_be_used() -> None:
    config = AutoscalingConfig(**_autoscaling(Autoscaling(max_replicas=4, target_queue_seconds=5)))
    policy = cloudpickle.loads(config.policy.get_serialized_policy_def())
    found = policy(**config.policy.policy_kwargs)(context([20.0], [0.0]))
    assert found == (4.0, {})
    assert pickle.dumps(config.policy.policy_kwargs)
    assert autoscaling.QueuePolicy is QueuePolicy, "pickled by value, and left as it was"


def test_requests_are_counted_where_that_is_asked_for() -> None:
    asked = Autoscaling(max_replicas=4, target_ongoing_requests=16)
    config = AutoscalingConfig(**_autoscaling(asked))
    assert config.target_ongoing_requests == 16
    assert config.policy.is_default_policy_function()


def test_device_seconds_are_the_default_target() -> None:
    assert Autoscaling().queue_target == TARGET_QUEUE_SECONDS
    assert Autoscaling(target_ongoing_requests=3).queue_target is None
    assert Autoscaling(target_queue_seconds=7).queue_target == 7


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"target_queue_seconds": 1, "target_ongoing_requests": 2}, "one target"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas (2) must be at least"),
        ({"target_queue_seconds": 0}, "greater than 0"),
        ({"look_back_seconds": 0}, "greater than or equal to 1"),
        ({"target_queue": 1}, "Extra inputs"),
    ],
)
def test_targets_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Autoscaling(**wrong)
    assert says in str(refusal.value)


def test_a_pool_survives_the_way_to_its_replica() -> None:
    pool = Pool(name="p", autoscaling=Autoscaling(min_replicas=0, target_ongoing_requests=4))
    assert Pool.model_validate(pool.model_dump()) == pool
    assert pool.may_sleep
    assert not Pool(name="p").may_sleep
