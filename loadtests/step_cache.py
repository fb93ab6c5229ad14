"""What `step_cache` costs in quality, and how much of the work it leaves out.

``python -m loadtests.step_cache``: the built-in text-to-image transformer in torch, the same
prompts and seeds without and with the cache at several thresholds. The difference is given as PSNR
of the 8-bit images against those without; nothing is timed.
"""

from __future__ import annotations

import argparse
import math
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.traffic import COLORS, SHAPES
from model_store.networks.opening import open_model
from services.core.engine import Engine
from services.core.images import ImageLimits, Pixels
from services.core.job import Call, Task
from services.core.trajectory import Result
from services.families import discover
from services.serving.local import cores, open_store

MODEL = "shapes-ldm"
STEPS = 30
SCALE = 3.0
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
LARGEST_PSNR = 99.0
"""Stands for images that are equal."""


def torch_engine() -> Engine:
    """The model by its safetensors export, whose blocks can be left out."""
    cpu = torch.device("cpu")
    model = open_model(open_store(None), MODEL, cpu, threads=cores(), prefer="safetensors")
    engine = discover()[model.family](model, cpu, ImageLimits())
    engine.setup()
    return engine


def made(engine: Engine, count: int, **extra: Any) -> list[Result]:
    """Images of different prompts, in one batch."""
    jobs = []
    for i in range(count):
        parameters = {
            "prompt": f"a {COLORS[i % len(COLORS)]} {SHAPES[i % len(SHAPES)]}",
            "steps": STEPS,
            "sampler": "dpmpp_2m",
            "guidance_scale": SCALE,
            "seed": i,
            **extra,
        }
        jobs += engine.jobs(Call(str(i), MODEL, Task.GENERATE, parameters))
    flights = engine.prepare(jobs)
    while left := [flight for flight in flights if not flight.finished]:
        engine.step(left)
    return engine.decode(flights)


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal to noise of two 8-bit images, in decibels."""
    error = float(np.square(one.astype(float) - other.astype(float)).mean())
    return LARGEST_PSNR if error == 0 else 10 * math.log10(255**2 / error)


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    count = parser.parse_args().images
    engine = torch_engine()
    plain = [r.pixels for r in made(engine, count) if r.pixels is not None]
    rows = []
    for threshold in THRESHOLDS:
        results = made(engine, count, step_cache=threshold)
        cached = [r.pixels for r in results if r.pixels is not None]
        values = [psnr(*pair) for pair in zip(plain, cached, strict=True)]
        reused = fmean(r.values["reused_evaluations"] for r in results) / (2 * STEPS)
        rows.append(
            {
                "threshold": threshold,
                "reused_share": round(reused, 4),
                "psnr_mean": round(fmean(values), 2),
                "psnr_least": round(min(values), 2),
            }
        )
    table = Table(title=f"{MODEL}, {STEPS} steps, guided: step_cache against none")
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console()
    console.print(table)
    result = {"machine": hardware.describe(), "images": count, "steps": STEPS, "rows": rows}
    console.print(f"kept in {hardware.keep('step-cache', result)}")


if __name__ == "__main__":
    main()
