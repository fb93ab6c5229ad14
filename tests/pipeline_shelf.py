"""Diffusers' own pipelines beside our engines for the folders that they were saved to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.addition import add_model
from model_store.importers.pipelines import import_pipeline
from model_store.limits import StoreLimits
from model_store.networks.opening import open_model
from model_store.store import Store
from services.core.engine import Engine
from services.core.images import ImageLimits
from services.families import discover
from tests.engines import CPU, call

THREADS = 1
LATENTS = 1e-4
PIXELS = 1 / 255 + 1e-6

Make = Callable[[Path], Any]


class Shelf:
    """Tiny pipelines by name: saved, added to a store and opened when first asked for.

    Those that differ in their scheduler alone share the networks of the first of them.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "store", catalogs=())
        self._known: dict[str, tuple[Any, Engine]] = {}

    def get(self, name: str, make: Make, *, like: str | None = None) -> tuple[Any, Engine]:
        """The pipeline of diffusers, and our engine for the folder that it saved."""
        if name not in self._known:
            pipeline = make(self.root / name)
            if like is None:
                add_model(self.store, self.root / name, threads=THREADS)
                model = open_model(self.store, name, CPU, threads=THREADS)
            else:
                draft = import_pipeline(self.root / name, StoreLimits(), name=name)
                model = replace(self._known[like][1].model, options=draft.manifest.options)
            engine = discover()[model.family](model, CPU, ImageLimits())
            engine.setup()
            self._known[name] = pipeline, engine
        return self._known[name]


def ours(
    engine: Engine, name: str = "generate", **what: Any
) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    """The last state of a call of one row, and the image: from 0 to 1, channels last."""
    (job,) = engine.jobs(call(name, **what))
    (trajectory,) = engine.prepare([job])
    while not trajectory.finished:
        engine.step([trajectory])
    state = trajectory.x.clone()
    (result,) = engine.decode([trajectory])
    assert result.pixels is not None
    return state, result.pixels.transpose(1, 2, 0) / 255


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
