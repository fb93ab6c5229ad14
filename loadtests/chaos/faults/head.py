"""What holds everything together is gone, and a supervisor starts the service again."""

from __future__ import annotations

import time

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage

END_SECONDS = 180.0
"""Ray's processes look for a lost head for a minute before they end."""


class HeadRestart(Fault):
    """Ray's head goes with it. Nobody serves until it is up; accepted jobs are done then."""

    name = "head-restart"
    about = "SIGKILL of `atelier serve`, with which Ray's head goes; started again at once"
    shape = "embedded"
    bounds = Bounds.breaking(failed_share=1.0)

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        stage.server.process.kill()
        stage.start_again()


class KilledControl(Fault):
    """Without Redis, Ray does not survive it: the service has to end, so that it is restarted."""

    name = "kill-gcs"
    about = "SIGKILL of Ray's control service; `atelier serve` must end by itself, and is restarted"
    shape = "embedded"
    bounds = Bounds.breaking(failed_share=1.0)

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._found: list[str] = []

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`.

        Raises:
            RuntimeError: no control service runs.
        """
        killed = [p for p in stage.named("gcs_server") if "--log_dir" in p.title]
        if not killed:
            raise RuntimeError("no control service of Ray runs")
        for process in killed:
            process.kill()
        end = time.monotonic() + END_SECONDS
        while stage.server.process.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
        if stage.server.process.poll() is None:
            self._found = [f"it went on for {END_SECONDS:g} s without Ray's control service"]
            stage.server.process.kill()
        stage.start_again()

    def found(self) -> list[str]:
        """See `Fault.found`."""
        return self._found
