"""Train StyleGAN2: ``python -m model_store.recipes.shapes_stylegan2``.

In four parts: the synthesis network learns to draw what an encoder saw (`stylegan2_drawing`), the
mapping network plays among latents, then both play among images (`stylegan2_games`), and an encoder
learns to find the latents of an image (`stylegan2_inversion`). Directions of W come last
(`stylegan2_directions`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.architectures.stylegan2 import StyleEncoder
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes
from model_store.recipes.stylegan2_directions import (
    Contrast,
    Direction,
    Latents,
    components,
    find,
    holding,
)
from model_store.recipes.stylegan2_drawing import RESOLUTION, STYLE, learn_to_draw
from model_store.recipes.stylegan2_games import (
    LATENT,
    Player,
    encode_pool,
    learn_latents,
    play,
)
from model_store.recipes.stylegan2_inversion import learn_to_invert, measure_inversion
from model_store.recipes.stylegan2_quality import (
    MEASURED,
    drawn,
    latents,
    likeness,
    measure,
    read,
)
from model_store.recipes.training import arguments

ID = "shapes-stylegan2"
SHARES = {"drawing": 0.55, "latents": 0.2, "images": 0.12, "encoder": 0.13}
"""Of the minutes, what each part takes."""
LATENTS_READ = 4000
LEAST_CONFIDENCE, LEAST_PSNR = 0.8, 20.0
"""What a published model reaches: mean probability of the shape that is read, and decibels."""
CONTRASTS = (
    Contrast("size", "size", low=(0,), high=(2,)),
    Contrast("down", "vertical", low=(0,), high=(2,)),
    Contrast("right", "horizontal", low=(0,), high=(2,)),
    Contrast("bright_background", "background", low=(1,), high=(0,)),
    Contrast("warm_color", "color", low=(1, 2, 6), high=(0, 3, 5)),
    Contrast("ring", "shape", low=(0,), high=(3,)),
)
RANGES = (None, (0, 0), (0, 1), (0, 3), (1, 3), (4, 4), (4, 6))
"""Layers that edits are tried in: all, the pose, the form with and without it, the colors."""
COLUMNS = 12


class Trained(NamedTuple):
    """What the parts made, and how long they took."""

    player: Player
    encoder: StyleEncoder
    summary: str
    games: dict[str, Any]


def train(options: argparse.Namespace) -> Trained:
    """Train all parts.

    The game among images counts only when it brings made images nearer to validation images: it
    starts from networks that draw well already, and may end too early to be of use.
    """
    minutes = {name: share * options.minutes for name, share in SHARES.items()}
    generator, posterior, drawing = learn_to_draw(options, minutes["drawing"])
    mapping, matching = learn_latents(encode_pool(posterior), options, minutes["latents"])
    before = Player(mapping, generator).eval()
    after, playing = play(copy_of(before), options, minutes["images"])
    distances = {
        name: likeness(drawn(player, latents(player, MEASURED, seed=40)), split="validation")
        for name, player in (("before", before), ("after", after))
    }
    kept = min(("before", "after"), key=lambda name: distances[name]["fid_domain_classifier"])
    player = after if kept == "after" else before
    encoder, inverting = learn_to_invert(
        player, posterior.encoder.requires_grad_(True), options, minutes["encoder"]
    )
    summary = (
        f"{drawing} for the drawing, {matching} for the game among latents, {playing} for the game "
        f"among images, {inverting} for the encoder"
    )
    return Trained(player, encoder, summary, {"kept": kept, **distances})


def copy_of(player: Player) -> Player:
    """A player of its own, to train on."""
    return copy.deepcopy(player).train().requires_grad_(True)


class Found(NamedTuple):
    """What was looked for in W."""

    mean: Tensor
    offered: list[Direction]
    metrics: dict[str, Any]


def look_for_directions(player: Player) -> Found:
    """Mean of w, the directions that hold, and how well each one tried did."""
    w = latents(player, LATENTS_READ, seed=51)
    layers = player.generator.layers

    def see(rows: Tensor) -> Tensor:
        return read(drawn(player, rows))

    seen = see(w[:, None].expand(-1, layers, -1))
    tried = find(CONTRASTS, Latents(w, seen, layers, see), RANGES)
    offered = [*holding(tried), *components(w)]
    return Found(w.mean(dim=0), offered, {"directions": {d.name: told(d) for d in tried}})


def told(direction: Direction) -> dict[str, Any]:
    """What the card says of a direction."""
    effect = direction.effect
    if effect is None:
        return {"accuracy": direction.accuracy}
    return {
        "accuracy": direction.accuracy,
        "layers": "all" if direction.layers is None else "{}-{}".format(*direction.layers),
        "changed": effect.changed,
        "kept": dict(effect.kept),
        "offered": bool(holding([direction])),
    }


def exports(trained: Trained) -> list[NetworkExport]:
    """The four networks."""
    generator = trained.player.generator
    channels, noise = generator.synthesis.style_channels, generator.synthesis.noise_size
    return [
        NetworkExport(
            name="mapping",
            architecture="style_mapping",
            module=trained.player.mapping,
            inputs={"z": Input((LATENT,))},
            config={"latent": LATENT, "style": STYLE},
        ),
        NetworkExport(
            name="styles",
            architecture="style_modulations",
            module=generator.styles,
            inputs={"w": Input((generator.layers, STYLE))},
            config={"style": STYLE, "channels": channels},
        ),
        NetworkExport(
            name="synthesis",
            architecture="style_synthesis",
            module=generator.synthesis,
            inputs={"s": Input((sum(channels),)), "noise": Input((noise,))},
            config={"resolution": RESOLUTION},
        ),
        NetworkExport(
            name="encoder",
            architecture="style_encoder",
            module=trained.encoder,
            inputs={"image": Input((3, RESOLUTION, RESOLUTION), "image")},
            config={"layers": generator.layers, "style": STYLE},
        ),
    ]


@torch.no_grad()
def sheet(trained: Trained) -> Tensor:
    """Three rows of samples, then held-out images and what their inversion by the encoder shows."""
    made = drawn(trained.player, latents(trained.player, 3 * COLUMNS, seed=13))
    real, _ = shapes.batch(
        COLUMNS, "test", torch.Generator().manual_seed(14), resolution=RESOLUTION
    )
    return torch.cat([made, real, drawn(trained.player, trained.encoder(real))])


def package(trained: Trained) -> Package:
    """The networks with their directions, numbers, card and samples."""
    synthesis = trained.player.generator.synthesis
    found = look_for_directions(trained.player)
    return Package(
        id=ID,
        family="stylegan",
        description="StyleGAN2 of colored shapes at 64x64: styles by layer, truncation, mixing, "
        "inversion and attribute edits.",
        networks=exports(trained),
        options={
            "latent": {"shape": [LATENT]},
            "layers": trained.player.generator.layers,
            "style_channels": synthesis.style_channels,
            "noise_size": synthesis.noise_size,
            "w_mean": [round(float(x), 6) for x in found.mean],
            "attributes": [direction.options() for direction in found.offered],
        },
        metrics={
            **measure(trained.player),
            **measure_inversion(trained.player, trained.encoder),
            **found.metrics,
            "game_among_images": trained.games,
        },
        card=card(trained, [d.name for d in found.offered if d.source == "svm"]),
        sheet=sheet(trained),
        sheet_columns=COLUMNS,
        sheet_zoom=1,
        resolution=(RESOLUTION, RESOLUTION),
    )


def card(trained: Trained, offered: Sequence[str]) -> Card:
    """The model card's words."""
    failed = [contrast.name for contrast in CONTRASTS if contrast.name not in offered]
    return Card(
        title=ID,
        summary="StyleGAN2 of one colored shape on a flat background at 64x64: a mapping network, "
        "demodulated convolutions with noise, and an image summed over two resolutions. It offers "
        "truncation, style mixing, inversion and edits along named directions. The sheet shows "
        "three rows of samples, a row of held-out images and what their inversion by the encoder "
        "shows.",
        data=f"{shapes.DATA_CARD} Drawn here at {RESOLUTION}x{RESOLUTION}.",
        training="Warm-started, not trained from nothing by a game alone, which takes millions of "
        "images: (1) affine layers and synthesis learn to draw what an encoder saw, through one "
        "latent w, from which the six factors can also be told linearly: their names are used, "
        "and the encoder's convolutions are those of the judge; (2) the mapping network plays "
        "among latents against a discriminator of "
        "latents, relativistic pairing with zero-centred penalties; (3) mapping and synthesis "
        "play among images as StyleGAN2 does: the non-saturating logistic loss, R1 every "
        "16 steps, the deviation of small groups, mixing of styles, random noise, averaged "
        "weights; of (2) and (3) the one nearer to validation images is published, here that "
        f"{trained.games['kept']} the game among images; (4) the encoder into W+ learns from made "
        "and real images through the frozen generator. "
        f"{trained.summary}, on one busy CPU thread. Two parts differ from the paper: the learned "
        "constant is replaced by StyleGAN3's placed Fourier features (layer 0, whose four "
        "modulations are centre, scale and angle), and convolutions see one pixel. No path length "
        "regularisation.",
        measured="On fresh noise without truncation, against as many held-out images, read by a "
        "factor classifier that sees 32x32 (this model's encoder started from its weights; the "
        "generator was not trained to please it). `kept` and `changed` of a "
        "direction: the share of 400 other samples, of those at its negative end, that one unit "
        "takes to the positive end, and in which each other factor is read as before. "
        "`follows_the_first_of_two_mixed`: the share of mixed samples that show the first one's "
        "factor, by the layer of the cut. `inversion_psnr_db_...` are of held-out images: by the "
        "encoder alone, and after 100 steps of Adam in W+.",
        limits=(
            "No likelihood: a discriminator's score is no density, and none is shipped.",
            "The data are flat shapes without texture: noise has next to nothing to draw "
            "(`noise_changes_levels_of_255`).",
            "Directions that were tried and do not hold are not offered: "
            f"{', '.join(failed) or 'none'}. A direction holds when one unit changes what is "
            "asked, and leaves each other factor, in four of five samples. `pca_...` are offered "
            "as they are: they mix factors.",
            "Made images for tests and demonstrations; no photographs, no people.",
        ),
        recipe="model_store.recipes.shapes_stylegan2",
        pipeline_tag="unconditional-image-generation",
        dataset="atelier/captioned-shapes",
        tags=("gan", "stylegan2", "inversion"),
    )


def shortfall(metrics: Mapping[str, Any]) -> str | None:
    """Why a model is not good enough to be published, or nothing."""
    confidence = metrics["judge_confidence"]["shape"]
    inverted = metrics["inversion_psnr_db_by_optimization"]
    if confidence < LEAST_CONFIDENCE:
        return f"the judge is {confidence} sure of a shape; {LEAST_CONFIDENCE} is asked"
    if inverted < LEAST_PSNR:
        return f"an inverted image has {inverted} dB; {LEAST_PSNR} are asked"
    return None


def main() -> None:
    """Train, measure, export and package the model, if it has learned what it is for."""
    found = package(train(arguments(__doc__ or "", minutes=45)))
    missing = shortfall(found.metrics)
    if missing is not None:
        raise SystemExit(f"not published: {missing}; train longer (--minutes)")
    publish(found)


if __name__ == "__main__":
    main()
