"""SIGSTOP of one process: it is there, and does nothing."""

from __future__ import annotations

import os
import signal

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage
from tests.e2e.processes import Process


class _Stopped(Fault):
    """Stopped for longer than a job's lease (10 s), shorter than Serve's health check (30 s)."""

    seconds = 15.0
    _process: Process | None = None

    def deployment(self, stage: Stage) -> str:
        """Whose replica."""
        raise NotImplementedError

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        self._process = stage.replica(self.deployment(stage))
        os.kill(self._process.id, signal.SIGSTOP)

    def heal(self, stage: Stage) -> None:  # noqa: ARG002 - of the class above
        """See `Fault.heal`."""
        if self._process is not None and self._process.alive:
            os.kill(self._process.id, signal.SIGCONT)


class StoppedGateway(_Stopped):
    """Its jobs go to the other gateway, and what it does when it wakes up counts for nothing."""

    name = "stop-gateway"
    about = "SIGSTOP of one of two gateways for 15 s, longer than a job's lease"
    bounds = Bounds(failed_share=0.1)

    def deployment(self, stage: Stage) -> str:  # noqa: ARG002 - of the class above
        """See `_Stopped.deployment`."""
        return "gateway"


class StoppedEngine(_Stopped):
    """Requests wait for it."""

    name = "stop-engine"
    about = "SIGSTOP of the only replica that holds the engines for 15 s"
    bounds = Bounds(failed_share=0.5)

    def deployment(self, stage: Stage) -> str:
        """See `_Stopped.deployment`."""
        return stage.engines
