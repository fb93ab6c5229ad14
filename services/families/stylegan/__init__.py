"""Style-based generators: a mapping, styles by layer, and a synthesis that they steer."""

from services.families.stylegan.engine import StyleGanEngine as ENGINE

__all__ = ["ENGINE"]
