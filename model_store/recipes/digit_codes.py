"""What the recipes of digits as codes share: training both parts, numbers, card, package."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.token_transformer import TokenTransformer
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.evaluation.reference import quantiles
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package
from model_store.recipes import digit_quality, digits
from model_store.recipes.code_priors import draw_codes, log_likelihood, train_prior
from model_store.recipes.early_stopping import Settings
from model_store.recipes.training import Run, learning_rate, set_learning_rate
from model_store.recipes.vector_quantization import codebook_use, decoded, encoded

BATCH = 64
SHIFT_CHANCE = 0.2
PEAK_RATE = 2e-3
PRIOR_SETTINGS = Settings(2e-3, 50, weight_decay=0.1, betas=(0.9, 0.98), decay=0.99)
IMAGE = (1, digits.SIDE, digits.SIDE)
COPIES = 12
"""Draws of noise and one-pixel moves of every training image that the transformer learns from."""
LABELS = [str(digit) for digit in range(digits.CLASSES)]
SETTINGS: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 0.95, "guidance_scale": 1.0}
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
ENOUGH = 0.93
"""The least guidance by which this share of digits is read as asked becomes the default."""
SAMPLES, ASKED = 240, 200

Reconstruct = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Images to what their quantised vectors are painted as, and the commitment loss."""


@dataclass(frozen=True, slots=True)
class CodesRecipe:
    """What one recipe says of itself.

    Attributes:
        id: of the model.
        summary: for the card.
        levels: grids of codes, the coarsest first.
        names: of the levels, in the numbers; one level needs none.
        codes: in a codebook.
        prior: configuration of the transformer.
        autoencoder_minutes: of the time.
        tags: for the card.
        training: words for the card about the autoencoder.
        limits: for the card, beside those of all.
    """

    id: str
    summary: str
    levels: Sequence[Sequence[int]]
    names: Sequence[str]
    codes: int
    prior: Mapping[str, Any]
    autoencoder_minutes: float
    tags: Sequence[str]
    training: str
    limits: Sequence[str] = ()

    @property
    def lengths(self) -> list[int]:
        """Codes of one image, by level."""
        return [height * width for height, width in self.levels]


@dataclass(frozen=True, slots=True)
class Trained:
    """The networks, how long they were trained, and the settings that samples are drawn with."""

    encoder: nn.Module
    decoder: nn.Module
    prior: TokenTransformer
    summary: str
    settings: Mapping[str, Any] = field(default_factory=lambda: SETTINGS)


def images(split: digits.Split, seed: int) -> Tensor:
    """One 8-bit form of a split's images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return digits.to_8_bit(digits.levels(split)[0], generator) / 127.5 - 1


def train_autoencoder(
    recipe: CodesRecipe,
    parts: Mapping[str, nn.Module],
    reconstruct: Reconstruct,
    options: argparse.Namespace,
) -> str:
    """Train until the time is spent; ``parts`` are the encoder, the decoder and the codebooks.

    ``reconstruct`` works with the parts. They are in eval mode afterwards.
    """
    parameters = [*parts["encoder"].parameters(), *parts["decoder"].parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=1e-3, betas=(0.9, 0.98))
    run = Run(
        f"{recipe.id}-autoencoder",
        recipe.autoencoder_minutes,
        options.workspace,
        {**parts, "optimizer": optimizer},
        fresh=options.fresh,
    )
    levels, _ = digits.levels("train")
    held_out = images("validation", seed=6)
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        rows = torch.randint(len(levels), (BATCH,), generator=run.generator)
        image = digits.signed(digits.augmented(levels[rows], run.generator, chance=SHIFT_CHANCE))
        output, commitment = reconstruct(image, run.generator)
        loss = functional.mse_loss(output, image) + commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0:
            for part in parts.values():
                part.eval()
            again = decoded(parts["decoder"], encoded(parts["encoder"], held_out))
            run.log(loss=float(loss.detach()), psnr=peak_signal_to_noise(again, held_out))
            for part in parts.values():
                part.train()
    for part in parts.values():
        part.eval()
    return run.summary()


def train_transformer(
    recipe: CodesRecipe, encoder: nn.Module, options: argparse.Namespace
) -> tuple[TokenTransformer, str]:
    """A causal transformer over the label and the codes of all levels."""
    generator = torch.Generator().manual_seed(7)
    levels, target = digits.levels("train")
    copies = [
        encoded(encoder, digits.signed(digits.augmented(levels, generator, chance=SHIFT_CHANCE)))
        for _ in range(COPIES)
    ]
    codes, labels = torch.cat(copies), target.repeat(COPIES) + 1
    torch.manual_seed(0)
    network = TokenTransformer(**recipe.prior)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(codes), (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < 0.2
        return labels[rows].masked_fill(dropped, 0)[:, None], codes[rows]

    held_out = encoded(encoder, images("validation", seed=6))
    told = (digits.levels("validation")[1] + 1)[:, None]
    return train_prior(recipe.id, network, batch, (told, held_out), options, PRIOR_SETTINGS)


def make(trained: Trained, labels: Tensor, seed: int) -> Tensor:
    """Images ``[n, 1, 8, 8]`` of labels ``[n]``; 0 asks for any, ``1 + i`` for the digit i."""
    codes = draw_codes(trained.prior, labels[:, None], seed, trained.settings)
    return decoded(trained.decoder, codes)


def read_as_asked(trained: Trained, seed: int) -> float:
    """Share of digits that are read as those that were asked for."""
    asked = torch.arange(digits.CLASSES).repeat(ASKED // digits.CLASSES)
    read = digit_quality.read(make(trained, asked + 1, seed))
    return float((read == asked).float().mean())


def guided(trained: Trained) -> Trained:
    """With the least guidance that is enough, or else the best, on draws of their own."""
    best, most = trained, 0.0
    for scale in GUIDANCE:
        tried = replace(trained, settings={**SETTINGS, "guidance_scale": scale})
        right = read_as_asked(tried, seed=13)
        if right > most:
            best, most = tried, right
        if right >= ENOUGH:
            break
    return best


def measure(recipe: CodesRecipe, trained: Trained, samples: Tensor) -> dict[str, Any]:
    """Reconstruction, use of codes, code length and quality of samples, on the test split."""
    test, target = images("test", seed=8), digits.levels("test")[1]
    codes = encoded(trained.encoder, test)
    again = decoded(trained.decoder, codes)
    told = log_likelihood(trained.prior, (target + 1)[:, None], codes)
    untold = log_likelihood(trained.prior, torch.zeros_like(target)[:, None], codes)
    bits = codes.shape[1] * torch.tensor(2.0).log()
    return {
        "condition_accuracy": round(read_as_asked(trained, seed=12), 4),
        **digit_quality.quality(samples),
        "bits_per_code": round(float(-untold.mean() / bits), 4),
        "bits_per_code_under_label": round(float(-told.mean() / bits), 4),
        "autoencoder_psnr_db": round(peak_signal_to_noise(again, test), 2),
        "autoencoder_reads_alike": round(
            float((digit_quality.read(again) == digit_quality.read(test)).float().mean()), 4
        ),
        **codebook_use(codes, recipe.codes, recipe.lengths, recipe.names),
    }


def package(recipe: CodesRecipe, trained: Trained, networks: Sequence[NetworkExport]) -> Package:
    """All networks with their numbers, card and samples."""
    trained = guided(trained)
    samples = make(trained, torch.zeros(SAMPLES, dtype=torch.int64), seed=10)
    shown = make(trained, torch.arange(1, 11).repeat(8), seed=11)
    held_out = encoded(trained.encoder, images("validation", seed=31))
    nothing = torch.zeros(len(held_out), 1, dtype=torch.int64)
    return Package(
        id=recipe.id,
        family="autoregressive",
        description=recipe.summary,
        networks=[transformer_export(recipe, trained.prior), *networks],
        options={
            "codes": recipe.codes,
            "levels": [{"shape": list(shape)} for shape in recipe.levels],
            "labels": LABELS,
            "defaults": dict(trained.settings),
            "reference_log_likelihoods": quantiles(
                log_likelihood(trained.prior, nothing, held_out)
            ),
        },
        metrics=measure(recipe, trained, samples),
        card=card(recipe, trained.summary),
        sheet=torch.cat([samples[:80], shown]).clamp(-1, 1),
        sheet_columns=10,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
    )


def transformer_export(recipe: CodesRecipe, prior: TokenTransformer) -> NetworkExport:
    """The transformer's step and what it takes."""
    positions, width = prior.place.shape
    return NetworkExport(
        name="transformer",
        architecture="token_transformer",
        module=prior,
        inputs={
            "token": Input((), "integer", digits.CLASSES),
            "position": Input((), "integer", positions),
            "tokens": Input((1,), "integer", digits.CLASSES + 1),
            "cache": Input((len(prior.blocks), 2, positions, width)),
        },
        config=recipe.prior,
    )


def card(recipe: CodesRecipe, summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=recipe.id,
        summary=recipe.summary + " The sheet shows eight rows without a label, then eight of 0 to "
        "9.",
        data=digits.DATA_CARD,
        training=f"{recipe.training} The codebook follows averages of what is assigned to it, and "
        "a code that nothing is assigned to begins anew. Then a causal transformer over the label "
        f"and the codes: {summary} at batch {BATCH} on one busy CPU thread, dropout, a fifth of "
        "the labels dropped, early stopping on the validation split.",
        measured="`codebook_use` is the share of codes that occur in the test images; "
        "`codebook_perplexity` is how many evenly used codes would say as much. `bits_per_code` is "
        "the exact code length of the test images' codes, which says nothing of pixels. "
        "`autoencoder_reads_alike`: how often a support vector machine reads a test image and its "
        f"reconstruction alike. `condition_accuracy`: of {ASKED} digits asked for with the "
        f"defaults, the share that it reads as asked; their guidance was chosen on other "
        f"draws. {digit_quality.WORDS}",
        limits=(
            "Its likelihood is that of codes, exactly; many images share the same codes.",
            "1,257 images are few: samples stay close to what was seen.",
            *recipe.limits,
        ),
        recipe=f"model_store.recipes.{recipe.id.replace('-', '_')}",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("autoregressive", *recipe.tags),
    )
