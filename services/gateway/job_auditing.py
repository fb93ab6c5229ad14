"""Writing down how jobs end: the request that asked for one was answered long before."""

from __future__ import annotations

import logging
from typing import Any

from services.core.errors import AuditUnavailable, ContentPolicyViolation, HeldForReview, Withheld
from services.gateway.audit_log import AuditLog
from services.jobs.interface import Jobs
from services.jobs.words import JobChange, JobRecord
from services.policies.interface import Action

_LOG = logging.getLogger(__name__)


def audit_ends(jobs: Jobs, log: AuditLog) -> None:
    """Have the end of each job written down: ``job.succeeded``, ``failed`` or ``canceled``.

    Must be the first listener: where the log cannot be written and the settings say ``refuse``,
    nobody else is told either until it can, so that nobody is told or charged twice. A line may
    stand there twice if a process dies between writing it and noting that; both have the same
    ``change``.
    """

    async def write(change: JobChange) -> None:
        if not change.record.status.final:
            return
        try:
            await log.record(event_of(change))
        except AuditUnavailable:
            if log.settings.on_failure == "refuse":
                raise
            _LOG.exception("the end of job %s is missing in the audit log", change.record.id)

    jobs.subscribe(write)


def event_of(change: JobChange) -> dict[str, Any]:
    """What the log says of a job's end; neither prompts nor images, which its request has told."""
    record, failure = change.record, change.record.failure
    return {
        "event": f"job.{record.status.value}",
        "job": record.id,
        "change": change.id,
        "owner": record.owner,
        "model": record.model,
        "task": record.kind,
        "n": record.rows,
        "decision": _decision(record).value,
        "policy": failure.policy if isinstance(failure, Withheld) else "",
        "review": failure.review if isinstance(failure, HeldForReview) else "",
        "error": "" if failure is None else failure.code,
        "attempts": record.attempts,
        "device_seconds": round(record.device_seconds, 6),
    }


def _decision(record: JobRecord) -> Action:
    match record.failure:
        case HeldForReview():
            return Action.HOLD
        case ContentPolicyViolation():
            return Action.REFUSE
    return Action.ALLOW
