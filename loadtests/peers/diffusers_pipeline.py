"""A peer: a plain diffusers pipeline in torch, one request after the other.

Diffusers' own schedulers around the same trained weights, with the guidance branches batched
together, as its pipelines do it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import diffusers
import torch
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from model_store.networks.opening import open_model
from services.core import images as codec
from services.core.job import Encoding
from services.core.pixels import to_pixels
from services.families.diffusion.options import DiffusionOptions
from services.serving.local import cores, open_store

MODEL = "shapes-ldm"


def scheduler(name: str) -> Any:
    """Diffusers' scheduler of a sampler's name, for a straight flow."""
    if name == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler()
    if name == "heun":
        return diffusers.FlowMatchHeunDiscreteScheduler()
    return diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction"
    )


@serve.deployment(max_ongoing_requests=4096)
class Pipeline:
    """Denoiser and decoder as torch modules."""

    def __init__(self) -> None:
        """Open the safetensors export of the model that Atelier serves."""
        threads = cores()
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        model = open_model(
            open_store(None), MODEL, torch.device("cpu"), threads=threads, prefer="safetensors"
        )
        self._options = DiffusionOptions.read(MODEL, model.options)
        self._denoiser = model.networks["denoiser"]
        self._decoder = model.networks["decoder"]
        self._range = model.pixel_range
        self._lock = asyncio.Lock()

    @torch.inference_mode()
    def generate(self, body: dict[str, Any]) -> bytes:
        """One image, as a pipeline's ``__call__`` makes it."""
        vocabulary, space = self._options.tokenizer, self._options.latent
        if vocabulary is None or space is None:
            raise RuntimeError(f"{MODEL} is a text-to-image latent model")
        tokens = torch.tensor([vocabulary.tokens(vocabulary.read(body["prompt"]))])
        scale = body["guidance_scale"]
        guided = scale != 1.0
        if guided:
            tokens = torch.cat([tokens, torch.zeros_like(tokens)])
        steps = scheduler(body["sampler"])
        steps.set_timesteps(body["steps"])
        source = torch.Generator().manual_seed(body["seed"])
        x = torch.randn((1, *space.shape), generator=source)
        for t in steps.timesteps:
            velocity = self._velocity(x, float(t) / 1000, tokens)
            if guided:
                conditional, unconditional = velocity.chunk(2)
                velocity = unconditional + scale * (conditional - unconditional)
            x = steps.step(velocity, t, x).prev_sample
        shift = torch.tensor(space.shift).view(1, -1, 1, 1)
        z = x * torch.tensor(space.scale).view(1, -1, 1, 1) + shift
        image = self._decoder(z=z)["image"]
        return codec.encode(to_pixels(image, self._range)[0], Encoding())

    def _velocity(self, x: Tensor, time: float, tokens: Tensor) -> Tensor:
        rows = len(tokens)
        return self._denoiser(
            x=x.expand(rows, -1, -1, -1), t=torch.full((rows,), time), tokens=tokens
        )["velocity"]

    async def __call__(self, request: Request) -> Response:
        """``GET /readyz``, or one image for a JSON body."""
        if request.method == "GET":
            return JSONResponse({"status": "ready"})
        body = await request.json()
        async with self._lock:
            image = await asyncio.to_thread(self.generate, body)
        return Response(image, media_type="image/png")


def build(args: dict[str, Any]) -> Application:  # noqa: ARG001 - Serve's builder signature
    """Called by Ray Serve."""
    return Pipeline.bind()
