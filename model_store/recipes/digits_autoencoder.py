"""Train the autoencoder: ``python -m model_store.recipes.digits_autoencoder``."""

from __future__ import annotations

from model_store.export.package import publish
from model_store.recipes import digit_autoencoders as autoencoders
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import arguments

RECIPE = autoencoders.AutoencoderRecipe(
    id="digits-autoencoder",
    summary="An autoencoder of 8x8 handwritten digits with a code of 12 numbers.",
    description="Autoencoder of handwritten digits at 8x8: twelve numbers say a digit.",
    code=12,
    hidden=(128, 96),
    trained_noise=0.0,
    measured_noise=48.0,
    settings=Settings(3e-3, 100, weight_decay=1e-2, decay=0.995),
    training="It never saw noise: a code of twelve numbers has no room for it.",
    limits=(
        "Noise is taken away by the code's narrowness alone, and some of the digit with it: "
        "`digits-denoising-ae` was trained for that.",
    ),
    tags=("reconstruction",),
)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=2)
    network, summary = autoencoders.train(RECIPE, options)
    publish(autoencoders.package(network, RECIPE, summary))


if __name__ == "__main__":
    main()
