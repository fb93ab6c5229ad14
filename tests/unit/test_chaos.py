"""What a fault cost, from what was written down: jobs lost or done twice, errors out of bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from loadtests.chaos.accounting import Bounds, Verdict, judge
from loadtests.chaos.faults import FAULTS
from loadtests.chaos.records import (
    ANSWERED,
    BROKEN,
    HUNG,
    TYPED,
    UNTYPED,
    WRONG,
    End,
    Job,
    Request,
    Submission,
    end_of,
)
from loadtests.slope import Slope, slope

INJECTED, HEALED = 10.0, 15.0
BOUNDS = Bounds(failed_share=0.3, recovery_seconds=5.0)
ENVELOPE = {"error": {"message": "m", "type": "server_error", "param": None, "code": "unavailable"}}


def requests(*ends: tuple[float, End]) -> list[Request]:
    """Answered ones each second from 0 to 30, and others at given moments."""
    good = [Request("flow", float(at), at + 0.1, ANSWERED) for at in range(31)]
    return good + [Request("flow", at, at + 0.5, end, "what it was") for at, end in ends]


def job(key: str, status: str = "succeeded", *, right: bool = True, number: int = 0) -> Job:
    return Job(f"job-{key}-{number}", key, status, right, 1 + number)


def submitted(key: str, *ids: str, accepted: float | None = 11.0) -> Submission:
    tried = [Request("job", 10.5, 11.0, ANSWERED if ids else TYPED)]
    return Submission(key, 10.5, tried, set(ids), accepted)


def judged(
    asked: list[Request], sent: list[Submission] | None = None, jobs: list[Job] | None = None
) -> Verdict:
    sent = [submitted("a", "job-a-0"), submitted("b", "job-b-0")] if sent is None else sent
    jobs = [job("a"), job("b")] if jobs is None else jobs
    return judge(BOUNDS, asked, sent, jobs, injected=INJECTED, healed=HEALED)


def test_a_fault_that_costs_what_it_may_keeps_every_promise() -> None:
    found = judged(requests((12.0, TYPED), (16.0, TYPED)))
    assert found.held
    assert found.failed == {"typed: what it was": 2}
    assert found.failed_share == pytest.approx(2 / 23)
    assert (found.recovery_seconds, found.outage_seconds) == (1.0, 6.0)
    assert (found.jobs, found.lost, found.twice, found.wrong_jobs) == (2, 0, 0, 0)


@pytest.mark.parametrize(
    ("sent", "jobs", "count"),
    [
        ([submitted("a", "job-a-0")], [], "lost"),
        ([submitted("a", "job-a-0")], [job("a", "failed")], "lost"),
        ([submitted("a", "job-a-0")], [job("a", "running")], "lost"),
        ([submitted("a", "job-a-0", "job-a-1")], [job("a")], "twice"),
        ([submitted("a", "job-a-0")], [job("a"), job("a", number=1)], "twice"),
        ([submitted("a", "job-a-0")], [job("a"), job("of nobody")], "twice"),
        ([submitted("a", "job-a-0")], [job("a", right=False)], "wrong_jobs"),
        ([submitted("a", accepted=None)], [], "never_accepted"),
    ],
)
def test_a_job_has_exactly_one_result(sent: list[Submission], jobs: list[Job], count: str) -> None:
    found = judged(requests(), sent, jobs)
    assert not found.held
    assert {
        name: getattr(found, name) for name in ("lost", "twice", "wrong_jobs", "never_accepted")
    } == {"lost": 0, "twice": 0, "wrong_jobs": 0, "never_accepted": 0, count: 1}
    assert found.broken_promises[0].startswith("1 ")


def test_a_job_that_was_begun_again_is_told_but_breaks_nothing() -> None:
    found = judged(requests(), jobs=[job("a"), replace(job("b"), attempts=3)])
    assert found.held
    assert found.retaken == 1


@pytest.mark.parametrize("end", [UNTYPED, BROKEN, HUNG, WRONG])
def test_one_request_that_ends_otherwise_than_it_may_is_enough(end: End) -> None:
    found = judged(requests((12.0, end)))
    assert found.broken_promises == (f"1 ended {end}: what it was",)


def test_submissions_fail_as_requests_do() -> None:
    sent = submitted("a", "job-a-0")
    sent.tries.insert(0, Request("job", 10.2, 10.4, UNTYPED, "500 without a code"))
    found = judged(requests(), [sent], [job("a")])
    assert found.broken_promises == ("1 ended untyped: 500 without a code",)


def test_connections_may_break_where_the_fault_ends_them() -> None:
    asked = requests((12.0, BROKEN))
    found = judge(Bounds.breaking(0.3), asked, [], [], injected=INJECTED, healed=HEALED)
    assert found.held


def test_too_many_too_long_or_too_early() -> None:
    many = judged(requests(*((11.0 + i / 10, TYPED) for i in range(20))))
    assert many.broken_promises == ("48.8% failed, above 30%",)
    long = judged(requests((28.0, TYPED)))
    assert long.broken_promises == ("recovered after 13 s, not 5",)
    early = judged(requests((3.0, TYPED)))
    assert early.broken_promises == ("1 requests failed before anything was broken",)


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (503, {"retry-after": "5"}, ENVELOPE, (TYPED, "503 unavailable")),
        (429, {"retry-after": "1"}, ENVELOPE, (TYPED, "429 unavailable")),
        (503, {}, ENVELOPE, (UNTYPED, "503 unavailable, no Retry-After")),
        (503, {"retry-after": "0"}, ENVELOPE, (UNTYPED, "503 unavailable, no Retry-After")),
        (503, {"retry-after": "5"}, None, (UNTYPED, "503 without a code")),
        (500, {"retry-after": "5"}, ENVELOPE, (UNTYPED, "500 unavailable")),
        (500, {}, "Internal Server Error", (UNTYPED, "500 without a code")),
    ],
)
def test_a_refusal_has_a_code_and_says_when_to_come_back(status, headers, body, expected) -> None:
    assert end_of(status, headers, body) == expected


def test_faults_have_names_of_their_own_and_say_what_they_do() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.about and 0 <= fault.bounds.failed_share <= 1 for fault in FAULTS)


def test_what_this_service_does_not_use_is_not_run() -> None:
    redis = next(fault for fault in FAULTS if fault.name == "redis-restart")
    assert redis().lacking()


def test_a_slope_and_its_error_are_those_of_a_line_through_the_means_of_minutes() -> None:
    seconds = [5.0 * i for i in range(12 * 60)]
    line = slope(seconds, [1e8 + 2e6 * at / 3600 for at in seconds])
    assert (line.per_hour, line.error) == pytest.approx((2.0, 0.0), abs=1e-6)
    wave = [1e8 + 1e6 * math.sin(at / 300) for at in seconds]
    noisy = slope(seconds, wave)
    assert abs(noisy.per_hour) < 2 * noisy.error + 1.0
    assert noisy.error > 0.1


def test_a_slope_that_is_not_sure_is_not_called_flat() -> None:
    assert Slope(0.2, 0.1).found(1.0) == "flat"
    assert Slope(0.2, 0.9).found(1.0) == "not known"
    assert Slope(3.0, 0.5).found(1.0) == "grows"
    assert slope([0.0, 1.0], [1.0, 1.0]).found(1.0) == "not known"
    with pytest.raises(ValueError, match="one of each"):
        slope([0.0], [])
