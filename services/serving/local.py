"""A backend in this process, from a pool's settings."""

from __future__ import annotations

import os

import torch

from model_store.signing import trusted_keys
from model_store.store import Store, default_root
from services.core.cores import usable_cores
from services.core.decoder import Decoder
from services.core.images import ImageLimits
from services.families import discover
from services.serving.call_spans import CallSpans
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.process_metrics import PoolMetrics
from services.serving.settings import Pool
from services.serving.store_source import StoreSource


def cores() -> int:
    """CPU cores that this process may use."""
    return usable_cores()


def threads_of(pool: Pool) -> int:
    """The most threads of one network evaluation: what a pool asks for, never more than cores."""
    return min(pool.threads or cores(), cores())


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def open_store(root: str | None) -> Store:
    """The built-in catalog together with the user's own models, as far as they are trusted.

    Raises:
        InvalidParameter: see `model_store.signing.trusted_keys`.
    """
    return Store(root or default_root(os.environ), trust=trusted_keys())


def local_backend(
    pool: Pool | None = None,
    *,
    store: Store | None = None,
    elsewhere: frozenset[str] = frozenset(),
    limits: ImageLimits | None = None,
    decoder: Decoder | None = None,
    metrics: PoolMetrics | None = None,
    spans: CallSpans | None = None,
) -> InProcessBackend:
    """A backend in this process.

    Args:
        pool: how the device is used; the whole catalog on one device by default.
        store: where the models are; the default store when absent.
        elsewhere: models that a pool of ``*`` leaves to others.
        limits: for uploaded images.
        decoder: of uploaded images; in this process when absent. Who gives it closes it.
        metrics: told what happens; nobody is when absent.
        spans: makes those of the calls; none are made when absent.
    """
    pool = pool or Pool(name="default", placement="fused")
    # The loop's own tensors are small: threads would cost more than they give, and the networks
    # have their own.
    torch.set_num_threads(1)
    source = StoreSource(
        store or open_store(None),
        threads=threads_of(pool),
        torch_options=pool.torch,
        tuning=pool.tuning,
    )
    return InProcessBackend(
        source,
        discover(),
        settings=PoolSettings(
            name=pool.name,
            models=None if pool.takes_the_rest else tuple(pool.models),
            elsewhere=elsewhere,
            preload=tuple(pool.preload),
            queue_seconds=pool.queue_seconds,
            max_loaded=pool.max_loaded,
            stall_seconds=pool.stall_seconds,
            drain_seconds=pool.drain_seconds,
            knees={name: tuning.knees for name, tuning in pool.tuning.items()},
        ),
        device=pick_device(pool.device),
        limits=limits,
        decoder=decoder,
        observer=metrics,
        on_load=metrics.loaded if metrics else lambda model, seconds: None,
        spans=spans,
    )
