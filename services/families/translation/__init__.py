"""Image-to-image translation in one evaluation: pix2pix, SRGAN."""

from services.families.translation.engine import TranslationEngine as ENGINE

__all__ = ["ENGINE"]
