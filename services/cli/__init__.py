"""``atelier ...``: the service from a terminal, one module for each command."""

from services.cli.commands import app

__all__ = ["app"]
