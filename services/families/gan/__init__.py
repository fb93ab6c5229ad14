"""Generative adversarial networks: one evaluation, sharp images, no density."""

from services.families.gan.engine import GanEngine as ENGINE

__all__ = ["ENGINE"]
