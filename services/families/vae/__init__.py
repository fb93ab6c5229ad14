"""Variational autoencoders: a latent with a prior, and a lower bound of the likelihood."""

from services.families.vae.engine import VaeEngine as ENGINE

__all__ = ["ENGINE"]
