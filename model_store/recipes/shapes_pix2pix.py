"""Train pix2pix on outlines of shapes: ``python -m model_store.recipes.shapes_pix2pix``.

A translator from the outline to the filled shape, held to the image by its mean absolute error and
to all images by a discriminator that sees patches of both (Isola et al., 2017, arXiv:1611.07004).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.translation import PatchDiscriminator, PatchTranslator
from model_store.evaluation import judge
from model_store.evaluation.enlargement import psnr, ssim
from model_store.evaluation.metrics.fidelity import perceptual_distance
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import outlines
from model_store.recipes.adversarial import Game, play
from model_store.recipes.training import arguments

ID = "shapes-pix2pix"
MINUTES = 10.0
BATCH = 32
GAME = Game(generator_rate=2e-3, discriminator_rate=4e-4, adversarial=0.01)
"""The weight of the game is the paper's: 1 to 100 of the absolute error (section 3.3)."""
CONFIG: dict[str, Any] = {"channels": 3, "width": 64, "blocks": 4, "patch": 4, "refine": 16}
MEASURED = 1000
SHEET_PAIRS = 24
TAKES = "an outline in the color of the shape, on paper of the color of the background"
LEAST_ACCURACY = 0.9
"""Share of held-out drawings in which each factor has to be read right to be published."""
LEAST_CONTRAST = 0.1
"""What a source's channel has to span, of the range from black to white, to show a line."""


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch to train with."""
    drawn = outlines.free_drawings(BATCH, generator)
    return drawn.outline, drawn.image


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged translator, and how long it took."""
    return play(
        ID,
        PatchTranslator(**CONFIG),
        PatchDiscriminator(6),
        draw,
        lambda source, image: torch.cat([source, image], dim=1),
        functional.l1_loss,
        options,
        GAME,
    )


@torch.no_grad()
def applied(network: nn.Module, outline: Tensor) -> Tensor:
    """What the translator makes of outlines ``[n, 3, 32, 32]``."""
    return torch.cat([network(part) for part in outline.split(200)])


@torch.no_grad()
def judged_distance(images: Tensor, real: Tensor) -> float:
    """Mean perceptual distance between the features that the judge reads factors from."""
    trunk = judge.judge().get_submodule("trunk")
    found = [trunk(part.clamp(-1, 1)) for part in (images, real)]
    return float(perceptual_distance([found[0]], [found[1]]).mean())


def measure(network: nn.Module) -> dict[str, Any]:
    """How close drawings of held-out combinations come to their shapes, and what is read there."""
    drawn = outlines.drawings(MEASURED, "test", torch.Generator().manual_seed(21))
    images = applied(network, drawn.outline)
    return {
        "psnr_db": round(float(psnr(images, drawn.image).mean()), 2),
        "ssim": round(float(ssim(images, drawn.image).mean()), 4),
        "perceptual_distance": round(judged_distance(images, drawn.image), 4),
        "outline_psnr_db": round(float(psnr(drawn.outline, drawn.image).mean()), 2),
        "outline_perceptual_distance": round(judged_distance(drawn.outline, drawn.image), 4),
        "factor_accuracy": judge.factor_accuracy(images, drawn.factors),
        "all_factors_accuracy": judge.all_factors_accuracy(images, drawn.factors),
        "real_all_factors_accuracy": judge.all_factors_accuracy(drawn.image, drawn.factors),
        "drawings": MEASURED,
    }


def sheet_of(network: nn.Module) -> Tensor:
    """Held-out drawings and what becomes of them, then the same of bent ones in any colors."""
    generator = torch.Generator().manual_seed(22)
    held_out = outlines.drawings(SHEET_PAIRS // 2, "test", generator)
    free = outlines.free_drawings(SHEET_PAIRS // 2, generator)
    outline = torch.cat([held_out.outline, free.outline])
    return torch.stack([outline, applied(network, outline)], dim=1).flatten(0, 1)


def package(network: nn.Module, summary: str) -> Package:
    """The translator with its numbers, card and samples."""
    return Package(
        id=ID,
        family="translation",
        description="pix2pix: fills the outline of a shape at 32x32, with the color of its line.",
        networks=[
            NetworkExport(
                name="generator",
                architecture="patch_translator",
                module=network,
                inputs={"source": Input((3, 32, 32), "image")},
                config=CONFIG,
            )
        ],
        options={"takes": TAKES, "least_contrast": LEAST_CONTRAST},
        metrics=measure(network),
        card=card(summary),
        sheet=sheet_of(network),
        sheet_columns=12,
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=ID,
        summary="An image-to-image translator: the outline of a shape becomes the filled shape. "
        "The color of the line is that of the filling, and the paper is the background, so that "
        "nothing is left to guess. On the sheet each outline stands left of what became of it: "
        "combinations that were never trained on in the upper rows, and in the lower ones bent "
        "outlines in any colors.",
        data=outlines.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread. The mean absolute error, and with "
        f"weight {GAME.adversarial:g} the relativistic average loss of a discriminator that sees "
        "patches of the outline beside the image, with spectral normalisation; the translator's "
        "weights are averaged.",
        measured=f"On {MEASURED:,} drawings of combinations that were never trained on, each with "
        "a pen of another width. Factors are read by a classifier that was trained apart; "
        "`real_all_factors_accuracy` is what it reads right of the shapes themselves. "
        "`perceptual_distance` is that of its features (less is closer; LPIPS in its form alone). "
        "`outline_...` is the outline itself against the filled shape.",
        limits=(
            "A drawing is brought to 32x32: draw with a pen of a thirtieth to a fifteenth of the "
            "paper's side. One whose line cannot be seen any more is refused.",
            "Trained on the six shapes and on bent forms of them: what other closed lines enclose "
            "is filled as far as that carries, and open lines or several shapes may go wrong.",
            "Deterministic: one drawing, one image; a seed changes nothing.",
            "Made images for tests and demonstrations; no photographs, no people.",
        ),
        recipe="model_store.recipes.shapes_pix2pix",
        pipeline_tag="image-to-image",
        dataset="atelier/captioned-shapes",
        tags=("pix2pix", "gan", "image-translation"),
    )


def main() -> None:
    """Train, measure, export and package the model, if it has learned what it is for."""
    found = package(*train(arguments(__doc__ or "", minutes=MINUTES)))
    factor, right = min(found.metrics["factor_accuracy"].items(), key=lambda pair: pair[1])
    if right < LEAST_ACCURACY:
        raise SystemExit(
            f"not published: the {factor} is read right in {right:.0%} of held-out drawings, and "
            f"{LEAST_ACCURACY:.0%} is needed; train longer (--minutes)"
        )
    publish(found)


if __name__ == "__main__":
    main()
