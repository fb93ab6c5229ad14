"""Redis, which nothing here uses."""

from __future__ import annotations

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage


class RedisRestart(Fault):
    """Jobs, quotas and idempotency keys lie in SQLite or PostgreSQL, files in a folder or S3.

    Only Ray may use a Redis, in a cluster whose head is to survive (GCS fault tolerance).
    """

    name = "redis-restart"
    about = "Redis is restarted"
    bounds = Bounds(failed_share=0.0)

    def lacking(self) -> str | None:
        """See `Fault.lacking`."""
        return "the service uses no Redis; Ray uses one only where a cluster's head is to survive"

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
