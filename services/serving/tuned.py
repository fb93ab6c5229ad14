"""Whether what an operator has set for single models can take effect, said before any start."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_store.manifest import Manifest
from model_store.networks.measurements import processor
from model_store.store import Store
from services.core.errors import InvalidParameter, ModelError, ModelNotFound
from services.core.images import ImageLimits
from services.families import discover
from services.serving.local import open_store, pick_device, threads_of
from services.serving.settings import Pool, Tuning
from services.serving.store_source import StoreSource

CPU = torch.device("cpu")


def hardware(pool: Pool) -> str:
    """What a pool's networks run on, as `services.serving.settings.Measured` remembers it."""
    device = pick_device(pool.device)
    name = processor(device)
    return name if device.type == "cuda" else f"{name}, {threads_of(pool)} cores"


def check_tuning(pools: Sequence[Pool], root: str | None) -> None:
    """Refuse a tuning of an unknown model, or one that the model cannot have; opens no network.

    Args:
        pools: of the deployment.
        root: folder of the user's models; the default one if ``None``.

    Raises:
        InvalidParameter: names the pool, the model and what is wrong.
    """
    tuned = [(pool, name, one) for pool in pools for name, one in pool.tuning.items()]
    if not tuned:
        return
    store = open_store(root)
    for pool, name, tuning in tuned:
        try:
            _check(store, name, tuning)
        except (ModelError, ModelNotFound) as error:
            raise InvalidParameter(
                f"pool '{pool.name}' cannot tune '{name}': {error.message}", param="tuning"
            ) from error


def stored_twice(manifest: Manifest) -> bool:
    """Whether a network of the model can be run from either of two exports."""
    return any(network.onnx and network.safetensors for network in manifest.networks.values())


def _check(store: Store, name: str, tuning: Tuning) -> None:
    manifest = store.get(name)
    if tuning.export is not None and not stored_twice(manifest):
        raise InvalidParameter(
            f"tuning of '{name}' asks for its {tuning.export} export, and none of its networks is "
            "stored both as onnx and as safetensors; leave `export` out",
            param="tuning",
        )
    family = discover().get(manifest.family)
    if tuning.defaults and family is not None:
        source = StoreSource(store, threads=1, tuning={name: tuning})
        family(source.open(name, CPU), CPU, ImageLimits())
