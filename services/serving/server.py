"""``atelier serve``: a Ray of our own on this machine, with the application on it."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from model_store.signing import trusted_keys
from services.core.errors import InvalidParameter
from services.core.logs import LogSettings
from services.gateway.settings import GatewaySettings, check_bind, check_provenance
from services.serving import haproxy, leftovers
from services.serving.environment import prepare
from services.serving.logs import LogPipe, resolved, speak_for_serve, start_logging

OBJECT_STORE_BYTES = 128 << 20
"""Images are small and answers do not pass through the object store."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RAY_FOLDER = "r"
LOG_PIPE = "log"
PIPE_VARIABLE, FORMAT_VARIABLE = "ATELIER_LOG__PIPE", "ATELIER_LOG__FORMAT"
LONGEST_PARENT = 19
"""Characters in the name of the folder for temporary files. Sockets lie deep below it, and theirs
may have 97."""
SHORT_PARENT = Path("/tmp")  # noqa: S108 - only mkdtemp writes there

Report = Callable[[str], None]


def read_config(path: Path) -> dict[str, Any]:
    """A Ray Serve config file.

    Raises:
        InvalidParameter: it is absent or no such config.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidParameter(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or not config.get("applications"):
        raise InvalidParameter(f"{path} has no `applications`; see deploy/serve.yaml")
    return config


def run(
    config_path: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    store: str | None = None,
    report: Report = print,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain and leave nothing running.

    Args:
        config_path: a Ray Serve config such as ``deploy/serve.yaml``.
        host: in place of the config's.
        port: in place of the config's.
        store: in place of the config's.
        report: told what is going on.
        ready: told the address once requests are taken.

    Raises:
        InvalidParameter: the config cannot be used, or would open the service to the network
            without a key.
    """
    config = read_config(config_path)
    http = {"host": "127.0.0.1", "port": 8000, **config.get("http_options", {})}
    http |= {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    settings = _checked(config, http)
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
        stopped.set()

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    session = _make_session(Path(tempfile.gettempdir()))
    leftovers.claim(session)
    leftovers.clear_dead(session.parent)
    lines = LogPipe(session / LOG_PIPE, sys.stderr)
    before = {name: os.environ.get(name) for name in (PIPE_VARIABLE, FORMAT_VARIABLE)}
    os.environ[PIPE_VARIABLE] = str(lines.path)
    os.environ.setdefault(FORMAT_VARIABLE, resolved(LogSettings(), sys.stderr))
    try:
        report("starting Ray")
        start_logging(settings[0].log.model_copy(update={"pipe": None}))
        _start(session, http, max(each.body_timeout for each in settings))
        for number in STOP_SIGNALS:  # Ray has put its own in the place of ours
            signal.signal(number, stop)
        _deploy(config, http, store, session, report)
        address = f"http://{http['host']}:{http['port']}"
        report(f"ready at {address}")
        ready(address)
        while not stopped.wait(1.0):
            pass
        report("draining")
    finally:
        _stop()
        lines.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}
        leftovers.clear(session)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(session: Path, http: dict[str, Any], body_seconds: float) -> None:
    prepare(
        os.environ, session, body_seconds=body_seconds, host=http["host"], port=int(http["port"])
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(
        p for p in (str(_root()), os.environ.get("PYTHONPATH", "")) if p
    )
    import ray  # noqa: PLC0415 - after the environment is set, which Ray reads on import

    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        # Ray lets everybody write there; nobody else gets past the folder above.
        _temp_dir=str(session / RAY_FOLDER),
    )


def _deploy(
    config: dict[str, Any],
    http: dict[str, Any],
    store: str | None,
    session: Path,
    report: Report,
) -> None:
    from ray import serve  # noqa: PLC0415 - as above

    speak_for_serve()
    # HAProxy listens where clients are; replicas, which Serve has listen likewise, only here.
    inside = {**http, "host": haproxy.LOOPBACK} if haproxy.is_there() else http
    serve.start(proxy_location=config.get("proxy_location", "HeadOnly"), http_options=inside)
    for application in config["applications"]:
        arguments = dict(application.get("args", {}))
        arguments["gateway"] = {**arguments.get("gateway", {}), **_bind(http)}
        arguments.setdefault("metrics_folder", str(session / "metrics"))
        if store is not None:
            arguments["store"] = store
        report(f"loading {application['name']}")
        serve.run(
            _attribute(application["import_path"])(arguments),
            name=application["name"],
            route_prefix=application.get("route_prefix", "/"),
        )


def _make_session(parent: Path) -> Path:
    """A new folder for whatever this server and Ray write, in the usual place if it is short."""
    if len(str(parent)) > LONGEST_PARENT and SHORT_PARENT.is_dir():
        parent = SHORT_PARENT
    return Path(tempfile.mkdtemp(prefix=leftovers.SESSION_PREFIX, dir=parent))


def _stop() -> None:
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    if ray.is_initialized():
        # First the replicas, which finish what they have accepted, while the proxy still stands.
        for name in serve.status().applications:
            with contextlib.suppress(TimeoutError):
                serve.delete(name)
        # Not by serve.shutdown: it ends the controller and then waits for the controller's answer.
        ray.shutdown()


def _checked(config: dict[str, Any], http: dict[str, Any]) -> list[GatewaySettings]:
    """The settings of each application; refuses at once what it would refuse once Ray runs."""
    found = []
    for application in config["applications"]:
        gateway = application.get("args", {}).get("gateway", {})
        found.append(GatewaySettings(**{**gateway, **_bind(http)}))
        check_bind(found[-1])
        check_provenance(found[-1])
    trusted_keys()
    return found


def _bind(http: dict[str, Any]) -> dict[str, Any]:
    return {"host": http["host"], "port": http["port"]}


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _attribute(import_path: str) -> Callable[[dict[str, Any]], Any]:
    module, _, name = import_path.partition(":")
    found: Callable[[dict[str, Any]], Any] = getattr(importlib.import_module(module), name)
    return found
