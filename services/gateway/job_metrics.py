"""``atelier_jobs``: how many jobs are in each state, of all replicas in one scrape."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from services.core.errors import Unavailable
from services.jobs.interface import Jobs


async def job_series(jobs: Jobs | None) -> Sequence[Metric]:
    """The series from the database, which all replicas share; nothing where it cannot be reached.

    It is made anew for each scrape: a gauge kept by each replica would be added up.
    """
    if jobs is None:
        return ()
    try:
        counts = await jobs.counts()
    except Unavailable:
        return ()
    gauge = GaugeMetricFamily("atelier_jobs", "Jobs that are kept, by state.", labels=("state",))
    for status, count in counts.items():
        gauge.add_metric((status.value,), count)
    return (gauge,)
