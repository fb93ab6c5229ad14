"""Memory runs out: the system gives the engines no more."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage
from tests.e2e.processes import Process

SPARE = 1 << 20


class OutOfMemory(Fault):
    """Allocations fail, in Python and in C++; whether the process lives on is its own affair.

    When the system's OOM killer acts instead, it sends SIGKILL: that is `kill-engine`.
    """

    name = "out-of-memory"
    about = "the engines' process may not allocate beyond what it has (RLIMIT_AS) for 15 s"
    seconds = 15.0
    bounds = Bounds(failed_share=0.6)

    _process: Process | None = None

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        self._process = process = stage.replica(stage.engines)
        status = Path(f"/proc/{process.id}/status").read_text(encoding="utf-8")
        found = re.search(r"^VmSize:\s+(\d+) kB", status, re.MULTILINE)
        size = int(found.group(1)) * 1024 if found else 0
        most = resource.prlimit(process.id, resource.RLIMIT_AS)[1]
        resource.prlimit(process.id, resource.RLIMIT_AS, (size + SPARE, most))

    def heal(self, stage: Stage) -> None:  # noqa: ARG002 - of the class above
        """See `Fault.heal`."""
        process = self._process
        if process is not None and process.alive:
            most = resource.prlimit(process.id, resource.RLIMIT_AS)[1]
            resource.prlimit(process.id, resource.RLIMIT_AS, (most, most))
