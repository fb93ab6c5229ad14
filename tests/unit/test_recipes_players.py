from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from model_store.recipes.players import Players


def players(workspace: Path) -> Players:
    options = argparse.Namespace(minutes=1.0, workspace=workspace, fresh=False, export_only=False)
    generator, opponent = nn.Linear(3, 2), nn.Linear(2, 1)
    return Players("game", generator, opponent, options, decay=0.5, names=("mapping", "critic"))


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_a_game_is_taken_up_by_the_names_of_its_players(tmp_path: Path) -> None:
    first = players(tmp_path)
    first.set_rates(0.1, 0.1)
    z = torch.ones(4, 3)
    first.opponent_learns(first.opponent(first.generator(z).detach()).mean())
    with first.opponent_still():
        first.generator_learns(first.opponent(first.generator(z)).mean())
    first.run.save()
    saved = torch.load(first.run.checkpoint, weights_only=True)["state"]
    assert list(saved) == ["mapping", "critic", "average", "optimizer_g", "optimizer_d"]
    again = players(tmp_path)
    for before, after in (
        (first.generator, again.generator),
        (first.opponent, again.opponent),
        (first.average, again.average),
    ):
        torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=0)


def test_each_player_learns_at_its_own_turn_alone(tmp_path: Path) -> None:
    game = players(tmp_path)
    game.set_rates(0.1, 0.1)
    z = torch.ones(4, 3)
    generator, opponent = weights(game.generator), weights(game.opponent)
    game.opponent_learns(game.opponent(game.generator(z).detach()).mean())
    torch.testing.assert_close(weights(game.generator), generator, rtol=0, atol=0)
    taught = weights(game.opponent)
    assert not torch.equal(taught[0], opponent[0])
    with game.opponent_still():
        score = game.opponent(game.generator(z)).mean()
        game.generator_learns(score)
    torch.testing.assert_close(weights(game.opponent), taught, rtol=0, atol=0)
    assert not torch.equal(weights(game.generator)[0], generator[0])
    assert game.opponent(game.generator(z)).mean().detach() < score.detach()
    assert all(parameter.requires_grad for parameter in game.opponent.parameters())
