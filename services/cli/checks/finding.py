"""What a check is told, and what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from services.core.errors import AtelierError
from services.gateway.settings import GatewaySettings

Level = Literal["ok", "note", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ``broken`` keeps the service from working, a ``warning`` costs speed or safety, a
            ``note`` is to be known.
        subject: what was looked at.
        found: how it is.
        why: what that means, where it is not as it should be.
        advice: what to do about it.
    """

    level: Level
    subject: str
    found: str
    why: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at, and cannot find out by themselves.

    Attributes:
        port: where the service is meant to listen.
        config: the deployment that is meant to be served; one that is absent has nothing to check.
        root: of the file system in which the kernel tells of itself.
        environment: of the process.
    """

    port: int = 8000
    config: Path = Path("deploy/serve.yaml")
    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @cached_property
    def settings(self) -> GatewaySettings | None:
        """The gateway's settings; ``None`` where `check_access` says that they cannot be read."""
        try:
            return GatewaySettings(**self.arguments.get("gateway", {}))
        except (ValidationError, AtelierError, TypeError):
            return None

    @cached_property
    def document(self) -> dict[str, Any]:
        """The config as it is written; empty where there is none that can be read."""
        from services.serving.server import read_config  # noqa: PLC0415 - takes a second

        try:
            return read_config(self.config)
        except AtelierError:
            return {}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the config's first application."""
        applications = self.document.get("applications") or [{}]
        found: dict[str, Any] = applications[0].get("args") or {}
        return found


Check = Callable[[Surroundings], list[Finding]]
