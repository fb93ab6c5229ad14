"""The database of jobs goes away and comes back."""

from __future__ import annotations

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage
from tests.postgres import binaries


class DatabaseRestart(Fault):
    """Jobs wait; requests, which need no database, notice nothing."""

    name = "database-restart"
    about = "PostgreSQL is stopped as good as killed, and started again after 8 s"
    seconds = 8.0
    bounds = Bounds(failed_share=0.0)

    def lacking(self) -> str | None:
        """See `Fault.lacking`."""
        return None if binaries() else "no PostgreSQL is installed"

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        if stage.postgres is not None:
            stage.postgres.stop("immediate")

    def heal(self, stage: Stage) -> None:
        """See `Fault.heal`."""
        if stage.postgres is not None:
            stage.postgres.start()
