"""Normalizing flows: an exact inverse and an exact likelihood."""

from services.families.flow.engine import FlowEngine as ENGINE

__all__ = ["ENGINE"]
