"""Autoregressive models of images as discrete codes, written one after another."""

from services.families.autoregressive.engine import AutoregressiveEngine as ENGINE

__all__ = ["ENGINE"]
