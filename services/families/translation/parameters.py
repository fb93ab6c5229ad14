"""What can be asked of an image-to-image generator."""

from __future__ import annotations

from services.families.latent import PerImage


class Translate(PerImage):
    """Parameters of ``translate``: each image as one of another kind.

    One image, one answer: a seed changes nothing.
    """


class SuperResolve(PerImage):
    """Parameters of ``super_resolution``: each image at a multiple of its own size.

    One image, one answer: a seed changes nothing.
    """
