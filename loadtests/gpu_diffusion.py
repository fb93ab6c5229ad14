"""SD 1.5 at 512 x 512 and SDXL at 1024 x 1024 on one GPU: our loop beside diffusers' pipeline.

``python -m loadtests.gpu_diffusion [--sizes sd15-512 sdxl-1024] [--tiny]``. Weights are random, of
the real configurations. In one run, on the same networks in bfloat16: images per second of our loop
and of the pipeline compiled with torch.compile at its best batch (20 steps, guided), goodput of
both on mixed arrivals, and what share of the device's own bfloat16 matrix products each image rate
is. ``--tiny`` takes the same way on a CPU with networks of a few numbers: a check, no figure.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from loadtests import hardware
from loadtests.gpu_models import (
    GUIDANCE,
    SD15,
    SDXL,
    STEPS,
    TINY,
    TINY_SIZED,
    Components,
    PlainPipeline,
    Size,
    our_model,
    random_prompt,
)
from loadtests.gpu_traffic import Ask, OurLoop, WholeCalls, goodput, mixed, solo_seconds
from model_store.manifest import TorchOptions
from services.core.images import ImageLimits
from services.families import discover
from services.runtime.cost import measure
from services.runtime.registry import LoadedModel

MIXED_STEPS = (10, 20, 30, 50)
TINY_STEPS = (1, 2)
MATRIX_SIDE = 8192
COPIED_BYTES = 1 << 30

Report = Callable[[str], None]


def ceilings(device: torch.device, *, side: int, copied: int) -> dict[str, float]:
    """What the device does at best: bfloat16 matrix products and copies, the best of ten."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    seconds = least_seconds(lambda: torch.mm(a, a), device)
    source = torch.empty(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = least_seconds(lambda: target.copy_(source), device)
    return {
        "bf16_tflops": 2 * side**3 / seconds / 1e12,
        "copy_gigabytes_per_second": 2 * copied / copy_seconds / 1e9,
    }


def least_seconds(work: Callable[[], object], device: torch.device, runs: int = 10) -> float:
    """Of one call, after two to warm up."""
    times = []
    for run in range(runs + 2):
        finish(device)
        started = time.perf_counter()
        work()
        finish(device)
        if run >= 2:
            times.append(time.perf_counter() - started)
    return min(times)


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def teraflops_per_image(parts: Components, steps: int) -> float:
    """Operations of the matrix products and convolutions of one guided image."""
    size = parts.size
    kind: dict[str, Any] = {"device": parts.device, "dtype": parts.dtype}
    told = {k: v[None].to(**kind) for k, v in random_prompt(size, "count").items()}
    added = None
    if size.sized:
        ids = torch.zeros(1, 6, device=parts.device)
        added = {"text_embeds": told["text_embeds"], "time_ids": ids}
    x = torch.randn(1, *size.latent, **kind)
    t = torch.zeros(1, device=parts.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as evaluation:
        parts.unet(x, t, told["encoder_hidden_states"], added_cond_kwargs=added)
    with torch.inference_mode(), FlopCounterMode(display=False) as decoding:
        parts.vae.decode(x)
    return (2 * steps * evaluation.get_total_flops() + decoding.get_total_flops()) / 1e12


def loaded(parts: Components, options: TorchOptions) -> LoadedModel:
    """Our engine over the networks, measured as at any load."""
    model = our_model(parts, options)
    engine = discover()["diffusion"](model, parts.device, ImageLimits())
    engine.setup()
    costs = measure(engine, engine.rehearsal(), threading.Lock())
    return LoadedModel(engine, "1", costs=costs, ready=True)


def our_rate(loop: OurLoop, images: int, steps: int) -> float:
    """Images per second with ``images`` guided requests of one kind sent at once."""
    for future in [loop.send(Ask(images + i, steps, guided=True)) for i in range(images)]:
        future.result()
    started = time.perf_counter()
    for future in [loop.send(Ask(i, steps, guided=True)) for i in range(images)]:
        future.result()
    return images / (time.perf_counter() - started)


def plain_rates(
    pipeline: PlainPipeline, size: Size, steps: int, report: Report
) -> dict[int, float]:
    """Images per second of the pipeline by batch; a batch that does not fit is left out."""
    found = {}
    for batch in size.batches:
        try:
            pipeline.images(batch, steps, GUIDANCE, 0)  # compiles
            started = time.perf_counter()
            for seed in (1, 2):
                pipeline.images(batch, steps, GUIDANCE, seed)
            found[batch] = 2 * batch / (time.perf_counter() - started)
        except torch.OutOfMemoryError:
            report(f"  a batch of {batch} does not fit")
            break
        report(f"  diffusers, batches of {batch}: {found[batch]:.3f} images/s")
    return found


def measured(
    size: Size, device: torch.device, *, tiny: bool, seconds: float, report: Report
) -> dict[str, Any]:
    """All figures of one size."""
    dtype = torch.float32 if tiny else torch.bfloat16
    steps, mix = (TINY_STEPS[0], TINY_STEPS) if tiny else (STEPS, MIXED_STEPS)
    parts = Components(size, device, dtype)
    work = teraflops_per_image(parts, steps)
    options = TorchOptions(
        dtype="float32" if tiny else "bfloat16",
        channels_last=True,
        compile=not tiny,
        cuda_graphs=True,
        deterministic=False,
        batch_buckets=list(size.buckets),
    )
    report(f"{size.name}: {work:.4f} TFLOP a guided image of {steps} steps")
    ours = OurLoop(loaded(parts, options))
    rate = our_rate(ours, 2 if tiny else 4 * size.buckets[-1], steps)
    report(f"  our loop: {rate:.3f} images/s")
    pipeline = PlainPipeline(parts, compiled=not tiny)
    plain = plain_rates(pipeline, size, steps, report)
    best = max(plain, key=plain.__getitem__)
    theirs = WholeCalls(pipeline, best)
    kinds = [Ask(0, count, guided) for count in mix for guided in (False, True)]
    solos = [solo_seconds(server.send, kinds) for server in (ours, theirs)]
    solo = {kind: min(found[kind] for found in solos) for kind in solos[0]}
    asks = mixed(2000, mix)
    found = {
        "teraflops_per_image": work,
        "loop_images_per_second": rate,
        "diffusers_images_per_second": plain,
        "diffusers_best_batch": best,
        "solo_seconds": {f"{k[0]} steps{', guided' if k[1] else ''}": v for k, v in solo.items()},
        "goodput": {},
    }
    for name, send in (("loop", ours.send), ("diffusers", theirs.send)):
        best_rate, tried = goodput(
            send, asks, solo, first=plain[best] / 2, seconds=seconds, most_rates=1 if tiny else 12
        )
        report(f"  {name}: goodput {best_rate:.3f} requests/s")
        found["goodput"][name] = {
            "requests_per_second": best_rate,
            "trials": [asdict(trial) for trial in tried],
        }
    ours.close()
    theirs.close()
    return found


def shares(found: dict[str, Any], ceiling: float) -> None:
    """Add what part of the device's matrix products each rate of images is."""
    work = found["teraflops_per_image"]
    best = found["diffusers_images_per_second"][found["diffusers_best_batch"]]
    found["loop_share_of_ceiling"] = work * found["loop_images_per_second"] / ceiling
    found["diffusers_share_of_ceiling"] = work * best / ceiling


def plot(result: Mapping[str, Any], path: Path) -> bool:
    """Images per second and goodput of both, by size; false where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - a figure is drawn where one can be
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    names = list(result["sizes"])
    rows = [result["sizes"][name] for name in names]
    pairs = {
        "images per second, 20 steps, guided": [
            [row["loop_images_per_second"] for row in rows],
            [row["diffusers_images_per_second"][row["diffusers_best_batch"]] for row in rows],
        ],
        "requests per second in time, mixed": [
            [row["goodput"][name]["requests_per_second"] for row in rows]
            for name in ("loop", "diffusers")
        ],
    }
    for axes, (title, values) in zip(figure.subplots(1, 2), pairs.items(), strict=True):
        for shift, label, heights in zip(
            (-0.2, 0.2), ("Atelier's loop", "diffusers, compiled"), values, strict=True
        ):
            places = [place + shift for place in range(len(names))]
            bars = axes.bar(places, heights, width=0.38, label=label)
            axes.bar_label(bars, fmt="%.2f")
        axes.set_xticks(range(len(names)), names)
        axes.set_title(title)
        axes.legend()
    figure.savefig(path, dpi=120)
    return True


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and keep the result with its plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {size.name: size for size in (SD15, SDXL)}
    parser.add_argument("--sizes", nargs="*", default=list(known), choices=list(known))
    parser.add_argument("--seconds", type=float, default=60.0, help="of traffic at each rate")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, with tiny networks")
    parser.add_argument("--results", type=Path, help="a folder in place of loadtests/results")
    options = parser.parse_args(arguments)
    console = Console()
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("these sizes need a CUDA device; --tiny takes the same way on a CPU")
    device = torch.device("cpu" if options.tiny else "cuda")
    sizes = [TINY, TINY_SIZED] if options.tiny else [known[name] for name in options.sizes]
    result: dict[str, Any] = {"machine": hardware.describe(), "tiny": options.tiny, "sizes": {}}
    side, copied = (256, 1 << 20) if options.tiny else (MATRIX_SIDE, COPIED_BYTES)
    result["ceilings"] = ceilings(device, side=side, copied=copied)
    for size in sizes:
        found = measured(
            size, device, tiny=options.tiny, seconds=options.seconds, report=console.print
        )
        shares(found, result["ceilings"]["bf16_tflops"])
        result["sizes"][size.name] = found
    name = "gpu-diffusion-tiny" if options.tiny else "gpu-diffusion"
    kept = hardware.keep(name, result, options.results)
    drawn = plot(result, kept.with_suffix(".png"))
    console.print(f"kept in {kept}" + ("" if drawn else "; no plot: matplotlib is not installed"))
    return result


if __name__ == "__main__":
    main()
