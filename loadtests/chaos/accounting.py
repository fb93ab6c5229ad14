"""The verdict on a fault: jobs lost or done twice, errors beyond their bounds, time to recover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from loadtests.chaos.records import BROKEN, TYPED, End, Job, Request, Submission

DONE = "succeeded"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a fault may cost.

    Attributes:
        failed_share: of the requests due from the fault until the end of the load.
        recovery_seconds: from the moment that the fault is over, until nothing fails any more.
        ends: how a request may fail; ``broken`` only where the fault ends connections itself.
    """

    failed_share: float
    recovery_seconds: float = 60.0
    ends: frozenset[End] = frozenset({TYPED})

    @classmethod
    def breaking(cls, failed_share: float, recovery_seconds: float = 60.0) -> Bounds:
        """Of a fault that takes whoever holds the connections."""
        return cls(failed_share, recovery_seconds, frozenset({TYPED, BROKEN}))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a fault cost.

    Attributes:
        requests: that were due in all.
        failed: of those due from the fault on, by how and with what detail.
        failed_share: of those due from the fault on.
        failed_before: before anything was broken.
        recovery_seconds: from the end of the fault to when the last request that failed was due;
            0 where none failed after it.
        outage_seconds: from the fault to the same moment.
        slowest_seconds: the longest that any request waited for its end.
        jobs: accepted.
        lost: accepted jobs that the server does not list, or that did not succeed.
        twice: keys that came to more than one job, and jobs of nobody's key.
        wrong_jobs: done, with other images than the request gives, or not exactly those.
        retaken: jobs that were begun more than once.
        never_accepted: keys that no server took, however often they were sent.
        broken_promises: a sentence each; empty where the fault cost no more than it may.
    """

    requests: int
    failed: dict[str, int]
    failed_share: float
    failed_before: int
    recovery_seconds: float
    outage_seconds: float
    slowest_seconds: float
    jobs: int
    lost: int
    twice: int
    wrong_jobs: int
    retaken: int
    never_accepted: int
    broken_promises: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken_promises

    def but(self, broken: Sequence[str]) -> Verdict:
        """The same, with more promises that were seen broken."""
        return replace(self, broken_promises=(*self.broken_promises, *broken))

    def as_json(self) -> dict[str, Any]:
        """Rounded."""
        found = {**asdict(self), "held": self.held}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}


def judge(
    bounds: Bounds,
    requests: Sequence[Request],
    submissions: Sequence[Submission],
    jobs: Sequence[Job],
    *,
    injected: float,
    healed: float,
) -> Verdict:
    """Weigh what was written down.

    Args:
        bounds: of the fault.
        requests: every one that was sent once.
        submissions: every job that was tried.
        jobs: every job that the server lists of this run.
        injected: when the fault began, in seconds from the start of the load.
        healed: when it was over; ``injected`` where it is but a moment.
    """
    tries = [one for submission in submissions for one in submission.tries]
    before = [one for one in requests if one.ended < injected]
    after = [one for one in requests if one.ended >= injected]
    failures = [one for one in after if one.failed]
    refused = [one for one in tries if one.failed and one.ended >= injected]
    last = max((one.due for one in failures), default=injected)
    by_key = Counter(job.key for job in jobs)
    accepted = {s.key: s for s in submissions if s.accepted is not None}
    done = {job.key for job in jobs if job.status == DONE}
    failed = Counter(f"{one.end}: {one.detail}" for one in failures)
    verdict = Verdict(
        requests=len(requests),
        failed=dict(failed.most_common()),
        failed_share=len(failures) / max(1, len(after)),
        failed_before=sum(one.failed for one in before),
        recovery_seconds=max(0.0, last - healed),
        outage_seconds=max(0.0, last - injected),
        slowest_seconds=max((one.ended - one.due for one in requests), default=0.0),
        jobs=len(accepted),
        lost=len(accepted.keys() - done),
        twice=sum(len(s.ids) > 1 for s in submissions)
        + sum(count - 1 for count in by_key.values())
        + len(by_key.keys() - {s.key for s in submissions}),
        wrong_jobs=sum(job.status == DONE and not job.right for job in jobs),
        retaken=sum(job.attempts > 1 for job in jobs),
        never_accepted=sum(s.accepted is None for s in submissions),
        broken_promises=(),
    )
    broken = [*_of_jobs(verdict), *_of_requests(bounds, verdict), *_kinds(bounds, after, refused)]
    return verdict.but(broken)


def _of_jobs(found: Verdict) -> list[str]:
    said = [
        (found.lost, "accepted jobs were lost or failed"),
        (found.twice, "jobs were made twice"),
        (found.wrong_jobs, "jobs have other images than their requests give"),
        (found.never_accepted, "jobs were not accepted, however often they were sent"),
    ]
    return [f"{count} {what}" for count, what in said if count]


def _of_requests(bounds: Bounds, found: Verdict) -> list[str]:
    broken = []
    if found.failed_before:
        broken.append(f"{found.failed_before} requests failed before anything was broken")
    if found.failed_share > bounds.failed_share:
        broken.append(f"{found.failed_share:.1%} failed, above {bounds.failed_share:.0%}")
    if found.recovery_seconds > bounds.recovery_seconds:
        broken.append(
            f"recovered after {found.recovery_seconds:.0f} s, not {bounds.recovery_seconds:.0f}"
        )
    return broken


def _kinds(bounds: Bounds, requests: Sequence[Request], tries: Sequence[Request]) -> list[str]:
    """Ends that the fault does not excuse; those of submissions count as well."""
    unexcused = Counter(
        f"{one.end}: {one.detail}"
        for one in (*requests, *tries)
        if one.failed and one.end not in bounds.ends
    )
    return [f"{count} ended {how}" for how, count in unexcused.most_common()]
