"""Densities in closed form: the yardstick beside every model that has a likelihood."""

from services.families.density.engine import DensityEngine as ENGINE

__all__ = ["ENGINE"]
