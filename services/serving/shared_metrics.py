"""The series of several processes on one page.

Each process of a deployment writes its series into files of a folder that they share, and whichever
of them is asked shows the sum. ``prometheus_client`` decides when it is imported whether to do so,
so the folder has to be in a process's environment before it starts. The folder is one machine's: a
replica on another node shows its series nowhere but there.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import mark_process_dead

from services.gateway.metrics import MULTIPROCESS_VARIABLE, GatewayMetrics
from services.serving.settings import Deployment

_GAUGES_OF_A_PROCESS = re.compile(r"gauge_live[a-z]*_([0-9]+)\.db")


def needs_sharing(deployment: Deployment) -> bool:
    """Whether more than one process has series."""
    apart = any(pool.placement == "apart" for pool in deployment.pools)
    return apart or deployment.gateway_replicas > 1


def environment_of(deployment: Deployment) -> dict[str, str]:
    """What every replica's process needs in its environment; nothing where there is but one."""
    if not needs_sharing(deployment):
        return {}
    folder = deployment.metrics_folder or os.environ.get(MULTIPROCESS_VARIABLE)
    return {MULTIPROCESS_VARIABLE: folder or tempfile.mkdtemp(prefix="atelier-metrics-")}


def make_folder(environment: Mapping[str, str]) -> None:
    """Make the shared folder where this process is to write and it is not there yet."""
    folder = environment.get(MULTIPROCESS_VARIABLE)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)


class SharedMetrics(GatewayMetrics):
    """The gateway's series, and a page without the gauges of processes that are no more.

    What a dead process counted stays, since a counter never falls; what it measured of itself,
    its queue and its rows in flight, went with it.
    """

    def render(self, accept: str = "", more: Sequence[Metric] = ()) -> tuple[bytes, str]:
        """See `GatewayMetrics.render`."""
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        if folder:
            forget_dead(Path(folder))
        return super().render(accept, more)


def forget_dead(folder: Path) -> None:
    """Remove the gauges of every process that has ended."""
    found = {_GAUGES_OF_A_PROCESS.fullmatch(path.name) for path in folder.iterdir()}
    for process in {int(match.group(1)) for match in found if match}:
        if not _is_alive(process):
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
