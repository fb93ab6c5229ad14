"""The proxy is told to read its configuration again."""

from __future__ import annotations

import subprocess
import sys

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import ROOT, Stage

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
        address = _address(stage)
        command = [sys.executable, "-c", TELL, address, str(RELOADS)]
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"the proxy was not reloaded: {done.stderr[-800:]}")


def _address(stage: Stage) -> str:
    """Of the cluster's head, as its own processes were told.

    Raises:
        RuntimeError: none of them says.
    """
    for process in stage.named("--gcs-address="):
        for word in process.title.split():
            if word.startswith("--gcs-address="):
                return word.partition("=")[2]
    raise RuntimeError("no process of Ray says where its head is")
