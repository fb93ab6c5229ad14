"""SIGKILL of one process."""

from __future__ import annotations

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage


class KilledGateway(Fault):
    """The other gateway takes over, jobs included."""

    name = "kill-gateway"
    about = "SIGKILL of one of two gateways; the proxy reloads when it goes and when it is back"
    bounds = Bounds(failed_share=0.02)

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        stage.replica("gateway").kill()


class KilledEngine(Fault):
    """The only replica of the pool; requests wait for the next or are told to come again."""

    name = "kill-engine"
    about = "SIGKILL of the only replica that holds the engines"
    bounds = Bounds(failed_share=0.5)

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        stage.replica(stage.engines).kill()


class KilledProxy(Fault):
    """It holds every connection, so these break; Serve starts another."""

    name = "kill-proxy"
    about = "SIGKILL of HAProxy, which holds every connection"
    bounds = Bounds.breaking(failed_share=0.8)

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`.

        Raises:
            RuntimeError: none runs.
        """
        found = [p for p in stage.named("haproxy") if "ray::" not in p.title]
        if not found:
            raise RuntimeError("no HAProxy runs")
        for process in found:
            process.kill()
