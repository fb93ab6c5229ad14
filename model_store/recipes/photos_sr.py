"""Train the super-resolution of photographs: ``python -m model_store.recipes.photos_sr``.

A diffusion of the detail that bicubic enlargement leaves out, told the enlarged image (SR3: Saharia
et al., 2021, arXiv:2104.07636; residuals as in Li et al., 2021, arXiv:2104.14951).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.patch_denoiser import SuperResolver
from model_store.evaluation import sampled
from model_store.evaluation.enlargement import psnr, sharpness, ssim
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import photographs, shapes
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.training import arguments
from services.sampling.enlarging import enlarged
from services.sampling.samplers import make_plan
from services.sampling.schedule import VariancePreserving

ID = "photos-sr"
MINUTES = 15.0
BATCH = 16
MADE = 4
"""Of a batch, so many are made shapes: flat areas and clean edges, which photographs lack."""
PEAK_RATE = 2e-3
FACTOR, SIDE = 2, 64
TIMES = 1000
RESIDUAL_SCALE = 0.08
"""About the standard deviation of what bicubic enlargement leaves out, in [-1, 1]."""
CHECK_EVERY = 50
SHAPE = (3, SIDE, SIDE)
SCHEDULE = VariancePreserving(
    num_train_timesteps=TIMES, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
)
CONFIG: dict[str, Any] = {
    "channels": 3,
    "width": 64,
    "blocks": 4,
    "style": 96,
    "patch": 4,
    "refine": 8,
    "times": TIMES,
}
DEFAULTS: dict[str, Any] = {"sampler": "ddim", "steps": 8}


def pairs(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Images ``[n, 3, 64, 64]`` in [-1, 1] and what enlarging their smaller form makes of them."""
    small = photographs.to_unit_range(photographs.shrunken(images, FACTOR))
    return photographs.to_unit_range(images), torch.stack([enlarged(i, FACTOR) for i in small])


def made(count: int, split: shapes.Split, generator: torch.Generator) -> NDArray[np.uint8]:
    """Made shapes, uint8 ``[count, 64, 64, 3]``."""
    images, _ = shapes.batch(count, split, generator, resolution=SIDE)
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def loss_of(
    network: nn.Module, image: Tensor, base: Tensor, known: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity of the residual (Salimans and Ho, 2022, appendix D)."""
    count = len(image)
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t, alpha, sigma = known[(places * TIMES).long().clamp(max=TIMES - 1)].unbind(1)
    alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    residual = (image - base) / RESIDUAL_SCALE
    noise = torch.randn(image.shape, generator=generator)
    velocity = network(alpha * residual + sigma * noise, t, base)
    return functional.mse_loss(velocity, alpha * noise - sigma * residual)


def levels() -> Tensor:
    """Time, signal level and noise level of every training time: ``[TIMES, 3]``."""
    signal = torch.from_numpy(SCHEDULE.signal()).float()
    return torch.stack([torch.arange(TIMES).float(), signal.sqrt(), (1 - signal).sqrt()], dim=1)


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged weights that did best on validation."""
    known = levels()
    held_out = pairs(photographs.tiles("validation", SIDE)[::2])

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        photos = photographs.patches(BATCH - MADE, "train", SIDE, generator)
        drawn = np.concatenate([photos, made(MADE, "train", generator)])
        return loss_of(network, *pairs(drawn), known, generator)

    return fit(
        ID,
        SuperResolver(**CONFIG),
        loss,
        lambda network: loss_of(network, *held_out, known, torch.Generator().manual_seed(9)),
        options,
        Settings(PEAK_RATE, CHECK_EVERY),
    )


@torch.no_grad()
def enlarge(network: nn.Module, base: Tensor, sampler: str, steps: int, *, seed: int) -> Tensor:
    """What the model makes of enlarged images ``[n, 3, 64, 64]`` in [-1, 1]."""
    plan = make_plan(sampler, SCHEDULE, steps)

    class Told(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            """The velocity, the enlarged images being known."""
            return network(x, t, base)

    detail = sampled.sample(Told(), plan, "v_prediction", tuple(base.shape), seed=seed)
    return base + RESIDUAL_SCALE * detail


def measure(network: nn.Module) -> dict[str, Any]:
    """Bicubic enlargement, the mean (one step) and the defaults on whole held-out photographs."""
    real, base = pairs(photographs.tiles("test", SIDE))
    found: dict[str, Any] = {"tiles": len(real)}
    ways = {
        "bicubic": base,
        "one_step": enlarge(network, base, DEFAULTS["sampler"], 1, seed=5),
        "default": enlarge(network, base, DEFAULTS["sampler"], DEFAULTS["steps"], seed=5),
    }
    for name, images in ways.items():
        found |= {
            f"{name}_psnr_db": round(float(psnr(images, real).mean()), 2),
            f"{name}_ssim": round(float(ssim(images, real).mean()), 4),
            f"{name}_sharpness": round(sharpness(images, real), 3),
        }
    shapes_real, shapes_base = pairs(made(96, "test", torch.Generator().manual_seed(6)))
    drawn = enlarge(network, shapes_base, DEFAULTS["sampler"], DEFAULTS["steps"], seed=7)
    return found | {
        "shapes_bicubic_psnr_db": round(float(psnr(shapes_base, shapes_real).mean()), 2),
        "shapes_default_psnr_db": round(float(psnr(drawn, shapes_real).mean()), 2),
    }


def sheet_of(network: nn.Module) -> Tensor:
    """Held-out patches: made small and shown by its pixels, bicubic, one step, defaults, real."""
    tiles = photographs.tiles("test", SIDE)[::7][:12]
    real, base = pairs(tiles)
    small = photographs.to_unit_range(photographs.shrunken(tiles, FACTOR))
    columns = [
        small.repeat_interleave(FACTOR, dim=2).repeat_interleave(FACTOR, dim=3),
        base,
        enlarge(network, base, DEFAULTS["sampler"], 1, seed=5),
        enlarge(network, base, DEFAULTS["sampler"], DEFAULTS["steps"], seed=5),
        real,
    ]
    return torch.stack(columns, dim=1).flatten(0, 1).clamp(-1, 1)


def package(network: nn.Module, summary: str) -> Package:
    """The denoiser with its numbers, card and samples."""
    return Package(
        id=ID,
        family="super_resolution",
        description="Diffusion that enlarges photographs to twice their size, any from 32x32 "
        "pixels; also the second model of a cascade.",
        networks=[
            NetworkExport(
                name="denoiser",
                architecture="super_resolver",
                module=network,
                inputs={
                    "x": Input(SHAPE),
                    "t": Input((), "time", TIMES - 1),
                    "enlarged": Input(SHAPE, "image"),
                },
                config=CONFIG,
            )
        ],
        options={
            "factor": FACTOR,
            "residual_scale": RESIDUAL_SCALE,
            "prediction_type": "v_prediction",
            "schedule": {
                "type": "variance_preserving",
                "num_train_timesteps": TIMES,
                "beta_schedule": "squaredcos_cap_v2",
                "timestep_spacing": "trailing",
            },
            "defaults": DEFAULTS,
        },
        metrics=measure(network),
        card=card(summary),
        sheet=sheet_of(network),
        sheet_columns=10,
        sheet_zoom=1,
        resolution=(SIDE, SIDE),
        channels=3,
        pixel_range=(-1.0, 1.0),
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=ID,
        summary="A diffusion model of the detail that bicubic enlargement to twice the size leaves "
        "out. The sheet shows patches of photographs that were held out, two in a row, each five "
        "times: made small, enlarged by bicubic filtering, with the mean detail (one step), with "
        "detail drawn by the default sampler, and as it was.",
        data=f"{photographs.DATA_CARD} A quarter of each batch are made shapes at 64x64 "
        "(`model_store.recipes.shapes`), so that flat areas stay flat in a cascade.",
        training=f"{summary} at batch {BATCH} on one CPU thread: 64x64 patches, turned, mirrored, "
        "channels in any order, made small by Pillow's bicubic filter and rounded to 8 bits; the "
        "velocity of the residual is predicted, compute is spent at a quarter of the resolution; "
        "AdamW, averaged weights, early stopping on a photograph that is not in the test.",
        measured="All tiles of two held-out photographs, each at full and at half size. A drawn "
        "detail is one of many that are possible, so its error is larger than the mean's; it is "
        "sharper instead. `..._sharpness` is the energy of the Laplacian over that of the real "
        "image: 1 is as sharp, and it does not say whether the detail is right. `shapes_...` are "
        "made shapes of combinations that were never trained on.",
        limits=(
            "Detail is invented, not recovered: no evidence of what was there.",
            "Trained on eight photographs; small text and faces are not known to it.",
            "It expects images made small without blur beyond a bicubic filter's, and no noise or "
            "JPEG artefacts.",
        ),
        recipe="model_store.recipes.photos_sr",
        pipeline_tag="image-to-image",
        dataset="scikit-image/data",
        tags=("super-resolution", "diffusion"),
    )


def main() -> None:
    """Train, measure, export and package the model, if it has learned anything."""
    made_of = package(*train(arguments(__doc__ or "", minutes=MINUTES)))
    ours, plain = (made_of.metrics[f"{name}_psnr_db"] for name in ("one_step", "bicubic"))
    if ours <= plain:
        raise SystemExit(
            f"not published: the mean detail gives {ours} dB, bicubic filtering alone {plain} dB; "
            "train longer (--minutes)"
        )
    publish(made_of)


if __name__ == "__main__":
    main()
