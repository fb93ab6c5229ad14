"""Where the service listens, and who may use it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import httpx
from pydantic import ValidationError

from services.cli.checks.finding import Finding, Surroundings
from services.core.errors import AtelierError
from services.gateway.keys import read_key_file
from services.gateway.settings import GatewaySettings, check_bind

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


def check_port(surroundings: Surroundings) -> list[Finding]:
    """Whether the port is free, or already Atelier's."""
    port = surroundings.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return [Finding("ok", "port", f"{port} is free")]
    if _is_atelier(port):
        return [Finding("note", "port", f"{port} is taken by a running Atelier")]
    advice = "choose another: atelier serve --port 9000"
    return [Finding("warning", "port", f"{port} cannot be used", reason, advice)]


def check_access(surroundings: Surroundings) -> list[Finding]:
    """Who may use the service."""
    try:
        settings = GatewaySettings(**surroundings.arguments.get("gateway", {}))
        listens = str(surroundings.document.get("http_options", {}).get("host") or settings.host)
        for host in (settings.host, listens):
            check_bind(settings.model_copy(update={"host": host}))
    except (ValidationError, TypeError) as error:
        why, advice = "the service does not start", "mend the config or the ATELIER_* variables"
        return [Finding("broken", "settings", str(error), why, advice)]
    except AtelierError as error:
        return [Finding("broken", "settings", error.message, "the service does not start")]
    count = len(settings.api_keys) + active_keys(settings.key_path)
    public = {settings.host, listens} - LOOPBACK
    if count:
        return [Finding("ok", "keys", f"{count} API keys are set")]
    if settings.oidc is not None:
        return [Finding("ok", "keys", f"tokens of {settings.oidc.issuer}")]
    advice = "`atelier keys create NAME`"
    if public:
        text = f"none, and the service listens on {', '.join(sorted(public))}"
        why = "everybody who reaches it may use it; right only behind something that asks"
        return [Finding("warning", "keys", text, why, advice)]
    why = "open to everybody on this machine"
    return [Finding("note", "keys", "none", why, f"{advice} before others can reach it")]


def check_user(_: Surroundings) -> list[Finding]:
    """What the service could do to the machine if it were taken over."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        why = "whoever took the service over would have the whole machine"
        return [Finding("note", "user", "root", why, "run the service as a user of its own")]
    return [Finding("ok", "user", "not root")]


def check_switches(surroundings: Surroundings) -> list[Finding]:
    """Settings that are for development only."""
    settings = surroundings.settings
    if settings is None:
        return []
    switches = {
        "ATELIER_FETCH_PRIVATE": settings.fetch_urls and settings.fetch_private,
        "ATELIER_WEBHOOKS__ALLOW_PRIVATE": settings.webhooks.enabled
        and settings.webhooks.allow_private,
    }
    why = "clients can have the service reach what only this machine can reach"
    found = [
        Finding("warning", name, "true", why, f"unset {name} where strangers are served")
        for name, on in switches.items()
        if on
    ]
    return found or [Finding("ok", "private addresses", "neither fetched nor told")]


def active_keys(path: Path) -> int:
    """How many keys of a key file are good now."""
    try:
        return sum(row.state(time.time()) == "active" for row in read_key_file(path).keys)
    except FileNotFoundError:
        return 0


def _is_atelier(port: int) -> bool:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/livez", timeout=2.0)
        return bool(answer.json() == {"status": "alive"})
    except (httpx.HTTPError, ValueError):
        return False
