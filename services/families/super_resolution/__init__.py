"""Super-resolution by diffusion: the detail that plain enlargement leaves out is made."""

from services.families.super_resolution.engine import SuperResolutionEngine as ENGINE

__all__ = ["ENGINE"]
