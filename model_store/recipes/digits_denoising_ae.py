"""Train the denoising autoencoder: ``python -m model_store.recipes.digits_denoising_ae``."""

from __future__ import annotations

from model_store.export.package import publish
from model_store.recipes import digit_autoencoders as autoencoders
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

RECIPE = autoencoders.AutoencoderRecipe(
    id="digits-denoising-ae",
    summary="A denoising autoencoder (Vincent et al., 2008) of 8x8 handwritten digits: it was "
    "shown noisy digits and asked for the clean ones.",
    description="Denoising autoencoder of handwritten digits at 8x8.",
    code=32,
    hidden=(160, 96),
    trained_noise=48.0,
    measured_noise=48.0,
    settings=Settings(3e-3, 100, weight_decay=2e-2, decay=0.995),
    training="What it saw had fresh Gaussian noise of standard deviation 48 (of 255) on every "
    "pixel; the error is against the clean image.",
    limits=("It was shown noise of that strength alone, and nothing was measured at others.",),
    tags=("denoising",),
)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=2)
    network, summary = autoencoders.train(RECIPE, options)
    publish(autoencoders.package(network, RECIPE, summary))


if __name__ == "__main__":
    main()
