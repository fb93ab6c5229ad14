"""The proxy is told to read its configuration again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import ROOT, Stage
from tests.e2e.processes import Process

RELOADS = 3
TELL = """
import sys
import ray
from ray.util import list_named_actors
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, logging_level="ERROR")
named = [a["name"] for a in list_named_actors(all_namespaces=True) if "PROXY" in a["name"]]
proxies = [ray.get_actor(name, namespace="serve") for name in named]
done = 0
for _ in range(int(sys.argv[2])):
    for proxy in proxies:
        if hasattr(proxy, "_reload_haproxy"):
            ray.get(proxy._reload_haproxy.remote())
            done += 1
ray.shutdown()
sys.exit(0 if done else 3)
"""
"""A driver of its own, since this process is none: asks Serve's proxy as Serve itself does."""


class ProxyReload(Fault):
    """A new HAProxy takes the listeners over; the old one ends what it has begun."""

    name = "proxy-reload"
    about = f"HAProxy is reloaded {RELOADS} times in a row"
    bounds = Bounds(failed_share=0.0)

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`.

        Raises:
            RuntimeError: the proxy could not be told.
        """
        process, address = _of_the_cluster(stage)
        command = [sys.executable, "-c", TELL, address, str(RELOADS)]
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            cwd=ROOT,
            # Ray turns away whoever does not have its token, as its own processes do.
            env={**os.environ, **_switches(process)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"the proxy was not reloaded: {done.stderr[-800:]}")


def _of_the_cluster(stage: Stage) -> tuple[Process, str]:
    """A process of Ray's own, and the address of the cluster's head, as it was told.

    Raises:
        RuntimeError: none of them says.
    """
    for process in stage.named("--gcs-address="):
        for word in process.title.split():
            if word.startswith("--gcs-address="):
                return process, word.partition("=")[2]
    raise RuntimeError("no process of Ray says where its head is")


def _switches(process: Process) -> dict[str, str]:
    """What Ray was started with, from the environment of one of its processes."""
    content = Path(f"/proc/{process.id}/environ").read_text(encoding="utf-8", errors="replace")
    entries = (entry.partition("=") for entry in content.split("\0"))
    return {name: value for name, _, value in entries if name.startswith("RAY_")}
