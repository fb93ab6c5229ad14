"""The disk that holds jobs, their files and the database is full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import STATE, Stage, is_root

SIZE = "64m"
CHUNK = b"\0" * (1 << 16)


class DiskFull(Fault):
    """Jobs are not accepted and not finished, but none is lost; requests need no disk."""

    name = "disk-full"
    about = "the file system with SQLite and the files of jobs has no byte left for 10 s"
    shape = "embedded"
    seconds = 10.0
    bounds = Bounds(failed_share=0.0)

    def lacking(self) -> str | None:
        """See `Fault.lacking`."""
        return None if is_root() and shutil.which("mount") else "only root can mount a small disk"

    def prepare(self, folder: Path) -> Mapping[str, str]:
        """See `Fault.prepare`: a small file system in the place of the state's folder."""
        options = f"size={SIZE},mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder / STATE)]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
        return {}

    def clean(self, folder: Path) -> None:
        """See `Fault.clean`."""
        subprocess.run(["umount", "-l", str(folder / STATE)], check=False)  # noqa: S603, S607 - as above

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        with suppress(OSError), self._filler(stage).open("wb") as file:
            while True:
                file.write(CHUNK)
                file.flush()

    def heal(self, stage: Stage) -> None:
        """See `Fault.heal`."""
        self._filler(stage).unlink(missing_ok=True)

    @staticmethod
    def _filler(stage: Stage) -> Path:
        return stage.state / "filler"
