"""The system's clock jumps, as when it is set right after a start."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage

SOURCE = Path(__file__).with_suffix(".c")
"""libfaketime will not do: with it, Python's ``time.sleep`` fails with EINVAL now and then."""
LIBRARY, FILE = "clock.so", "clock"
JUMP_SECONDS = 600


class ClockJump(Fault):
    """Leases, deadlines and the sweep read this clock; waiting and the loop do not."""

    name = "clock-jump"
    about = "the wall clock of every process of the server jumps ten minutes ahead, and back"
    shape = "embedded"
    alone = True
    seconds = 12.0
    bounds = Bounds(failed_share=0.0)

    def lacking(self) -> str | None:
        """See `Fault.lacking`."""
        return None if shutil.which("cc") else "no C compiler, which makes the clock that jumps"

    def prepare(self, folder: Path) -> Mapping[str, str]:
        """See `Fault.prepare`."""
        library = folder / LIBRARY
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)  # noqa: S603 - our own source
        _set(folder, 0)
        return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(folder / FILE)}

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        _set(stage.folder, JUMP_SECONDS)

    def heal(self, stage: Stage) -> None:
        """See `Fault.heal`."""
        _set(stage.folder, 0)


def _set(folder: Path, seconds: int) -> None:
    """In place: the processes have the file mapped."""
    path = folder / FILE
    path.touch()
    with path.open("r+b") as file:
        file.write(struct.pack("l", seconds))
