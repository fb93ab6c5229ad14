"""Diffusion and rectified-flow models: step-batched sampling, editing, a variational bound."""

from services.families.diffusion.engine import DiffusionEngine as ENGINE

__all__ = ["ENGINE"]
