"""The training run every recipe shares: a time budget, a progress bar, checkpoints that resume."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

CHECKPOINT_SECONDS = 60.0


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arguments(description: str, *, minutes: float) -> argparse.Namespace:
    """The options every recipe takes: how long, from what, with how much, and where.

    Seeds torch: networks are built before their `Run`.
    """
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=minutes, help="training time in all")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier checkpoint")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument(
        "--workspace", type=Path, default=Path(".training"), help="where checkpoints are kept"
    )
    parser.add_argument(
        "--export-only", action="store_true", help="package what the checkpoint holds now"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def _clock() -> float:
    """Seconds of work: the processor's, or what passes while a GPU works."""
    if torch.cuda.is_available():
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()


@dataclass
class Run:
    """One resumable training run under a time budget.

    ``state`` holds everything that has a ``state_dict``: modules, optimisers, averages. The time
    already spent is part of the checkpoint, so a killed run takes up where it stopped and the
    learning rate, a function of the spent share of the budget, continues its curve. On a CPU the
    processor's time counts, so that a busy machine takes longer and learns as much.
    """

    name: str
    minutes: float
    workspace: Path
    state: dict[str, Any]
    seed: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    fresh: bool = False
    export_only: bool = False

    def __post_init__(self) -> None:
        """Seed torch, then resume from the checkpoint when there is one."""
        self.generator = torch.Generator().manual_seed(self.seed)
        torch.manual_seed(self.seed)
        self.folder = self.workspace / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        if self.fresh:
            self.checkpoint.unlink(missing_ok=True)
        if self.checkpoint.exists():
            self._load()
        elif self.export_only:
            raise FileNotFoundError(f"nothing to export: {self.checkpoint} does not exist")

    @property
    def progress(self) -> float:
        """Spent share of the time budget, in [0, 1]."""
        return min(1.0, self.seconds / (self.minutes * 60))

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is spent; checkpoints once a minute and last."""
        if self.export_only or self.progress >= 1.0:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, refresh_per_second=1) as bar:
            task = bar.add_task(self.name, total=self.minutes * 60, numbers="")
            saved = time.monotonic()
            while self.progress < 1.0:
                started = _clock()
                yield self.step
                self.step += 1
                self.seconds += _clock() - started
                numbers = " ".join(f"{k} {v:.4g}" for k, v in self._latest().items())
                bar.update(task, completed=self.seconds, numbers=f"step {self.step} {numbers}")
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def summary(self) -> str:
        """How long the run was, for a card."""
        return f"{self.step:,} steps in {self.seconds / 60:.0f} minutes"

    def log(self, **numbers: float) -> None:
        """Keep some numbers in the history and show them on the bar."""
        self.history.append({"step": self.step, "seconds": round(self.seconds, 1), **numbers})

    def _latest(self) -> dict[str, float]:
        return {k: v for k, v in (self.history or [{}])[-1].items() if k not in ("step", "seconds")}

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the previous one intact."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "seconds": self.seconds,
                "history": self.history,
                "generator": self.generator.get_state(),
                "state": {name: part.state_dict() for name, part in self.state.items()},
            },
            partial,
        )
        partial.replace(self.checkpoint)
        (self.folder / "history.json").write_text(json.dumps(self.history))

    def _load(self) -> None:
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]
        self.generator.set_state(saved["generator"])
        for name, part in self.state.items():
            part.load_state_dict(saved["state"][name])


def learning_rate(progress: float, peak: float, *, warm_up: float = 0.02) -> float:
    """Linear warm-up, then a cosine to zero, over the spent share of the budget."""
    if progress < warm_up:
        return peak * progress / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


def averaged(module: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of a module's parameters; buffers are copied."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=average, use_buffers=False)


class Best(nn.Module):
    """The weights that did best on validation, kept in the checkpoint: early stopping."""

    loss: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Start from the untrained network."""
        super().__init__()
        self.network = copy.deepcopy(network)
        self.register_buffer("loss", torch.tensor(float("inf")))

    def offer(self, candidate: nn.Module, loss: float) -> None:
        """Keep ``candidate`` when it beats what is kept."""
        if loss < float(self.loss):
            self.network.load_state_dict(candidate.state_dict())
            self.loss.fill_(loss)


def compiled(module: nn.Module) -> Callable[..., Any]:
    """The module's forward, compiled where a C++ compiler is at hand: 1.7 times faster on a CPU."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return module
    return torch.compile(module)
