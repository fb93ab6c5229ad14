from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_store.recipes.early_stopping import Settings, fit


def options_of(folder: Path, *, minutes: float, export_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(
        minutes=minutes, workspace=folder, fresh=False, export_only=export_only, threads=1
    )


def slope_of(network: nn.Module, generator: torch.Generator) -> Tensor:
    x = torch.randn(16, 1, generator=generator)
    return (network(x) - 3 * x).square().mean()


def held_out(network: nn.Module) -> Tensor:
    assert not network.training
    assert not torch.is_grad_enabled()
    return slope_of(network, torch.Generator().manual_seed(1))


def test_it_learns_and_gives_what_did_best_again_from_its_checkpoint(tmp_path: Path) -> None:
    settings = Settings(peak_rate=0.1, check_every=5)
    torch.manual_seed(0)
    trained, summary = fit(
        "slope",
        nn.Linear(1, 1),
        slope_of,
        held_out,
        options_of(tmp_path, minutes=0.02),
        settings,
    )
    assert "steps" in summary
    assert trained.weight.item() == pytest.approx(3, abs=0.3)
    again, _ = fit(
        "slope",
        nn.Linear(1, 1),
        slope_of,
        held_out,
        options_of(tmp_path, minutes=0.02, export_only=True),
        settings,
    )
    assert torch.equal(again.weight, trained.weight)


def test_worse_weights_are_not_kept(tmp_path: Path) -> None:
    first: list[Tensor] = []

    def once_good(network: nn.Module) -> Tensor:
        first.append(network.weight.detach().clone())
        return torch.tensor(float(len(first)))

    best, _ = fit(
        "slope",
        nn.Linear(1, 1),
        slope_of,
        once_good,
        options_of(tmp_path, minutes=0.01),
        Settings(peak_rate=0.1, check_every=1),
    )
    assert len(first) > 3
    assert torch.equal(best.weight, first[0])
