"""How many replicas a pool needs, by the device time that is queued and that is asked for.

Serve's controller pickles this module whole and calls `QueuePolicy` every moment.
"""

from __future__ import annotations

from typing import Any

FULLEST = 0.85
"""Share of its seconds for which a device may be asked. Nearer to all of them queues grow without
bound, so replicas are not taken away that much, however short the queues are now."""
QUEUE, OFFERED = "queue_seconds", "offered_seconds_per_second"
"""What replicas record, by name."""


def wanted_replicas(queued: float, offered: float, target_queue_seconds: float) -> float:
    """Replicas among which the work of a pool is as it should be.

    Args:
        queued: device seconds accepted and not finished, over all replicas.
        offered: device seconds accepted per second, likewise.
        target_queue_seconds: what each replica should hold.
    """
    return max(queued / target_queue_seconds, offered / FULLEST)


class QueuePolicy:
    """Ray Serve's autoscaling policy; what it says is delayed and bounded by Serve."""

    def __init__(self, target_queue_seconds: float) -> None:
        """Take the device seconds that each replica should hold."""
        self._target = target_queue_seconds

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Replicas wanted; see ``ray.serve.config.AutoscalingContext``.

        A replica that has recorded nothing yet is as the mean of the others. While none has, the
        number stays.
        """
        recorded = context.aggregated_metrics or {}
        queues, offers = recorded.get(QUEUE, {}), recorded.get(OFFERED, {})
        if not context.current_num_replicas or not queues:
            return context.target_num_replicas, {}
        scale = context.current_num_replicas / len(queues)
        wanted = wanted_replicas(
            scale * sum(queues.values()), scale * sum(offers.values()), self._target
        )
        # What waits for a replica, or is being loaded, is in no replica's queue.
        return max(wanted, float(context.total_num_requests > 0)), {}
