from __future__ import annotations

import pytest
import torch
from torch import nn

from model_store.recipes import digits
from model_store.recipes.training import Run, averaged, learning_rate


def make_run(folder, minutes=1.0, **options):
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    return Run("tiny", minutes, folder, {"network": network, "optimizer": optimizer}, **options)


def train_some(run, steps):
    network, optimizer = run.state["network"], run.state["optimizer"]
    for step in run.steps():
        x = torch.randn(8, 2, generator=run.generator)
        loss = (network(x) - x.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            run.log(loss=float(loss.detach()))
            run.save()
        if step >= steps:
            return


def test_a_killed_run_resumes_where_it_was_saved(tmp_path):
    whole = make_run(tmp_path / "whole")
    train_some(whole, 20)

    killed = make_run(tmp_path / "killed")
    train_some(killed, 12)  # saved last at step 10, killed two steps later
    resumed = make_run(tmp_path / "killed")
    assert resumed.step == 10
    assert resumed.seconds > 0
    assert [row["step"] for row in resumed.history] == [0, 5, 10]


def test_a_resumed_run_draws_what_the_unbroken_run_would_have_drawn(tmp_path):
    run = make_run(tmp_path)
    train_some(run, 5)
    expected = torch.randn(3, generator=run.generator)
    saved = torch.load(run.checkpoint, weights_only=True)
    resumed = make_run(tmp_path)
    assert torch.equal(resumed.generator.get_state(), saved["generator"])
    assert torch.equal(torch.randn(3, generator=resumed.generator), expected)


def test_a_spent_budget_trains_no_more(tmp_path):
    run = make_run(tmp_path, minutes=0.001)
    assert len(list(run.steps())) >= 0
    run.seconds = 60.0
    run.save()
    assert list(make_run(tmp_path, minutes=0.5).steps()) == []


def test_fresh_forgets_the_checkpoint(tmp_path):
    train_some(make_run(tmp_path), 5)
    assert make_run(tmp_path, fresh=True).step == 0


def test_export_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to export"):
        make_run(tmp_path, export_only=True)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    assert learning_rate(0.0, 1e-3) == 0
    assert learning_rate(0.02, 1e-3) == pytest.approx(1e-3)
    assert learning_rate(1.0, 1e-3) == pytest.approx(0, abs=1e-12)


def test_an_average_leaves_integer_buffers_alone():
    module = nn.Linear(1, 1)
    module.register_buffer("offsets", torch.tensor([7, 16]))
    average = averaged(module, 0.999)
    for _ in range(3):
        average.update_parameters(module)
    assert average.module.offsets.tolist() == [7, 16]


def test_digit_splits_are_disjoint_and_whole():
    rows = [
        {tuple(image) for image in digits.levels(split)[0].flatten(1).tolist()}
        for split in ("train", "validation", "test")
    ]
    assert [len(digits.levels(s)[0]) for s in ("train", "validation", "test")] == [1257, 180, 360]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_levels_spread_evenly_over_eight_bits():
    generator = torch.Generator().manual_seed(0)
    pixels = digits.to_8_bit(torch.arange(17).repeat(4000), generator)
    counts = pixels.long().bincount(minlength=256).float()
    assert len(counts) == 256
    assert (counts / counts.mean() - 1).abs().max() < 0.35
    x = digits.dequantize(pixels, generator)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_shifts_move_by_at_most_one_pixel():
    images = torch.zeros(200, 1, 8, 8, dtype=torch.int64)
    images[:, 0, 4, 4] = 9
    moved = digits.shift(images, torch.Generator().manual_seed(0), chance=1.0)
    places = moved[:, 0].flatten(1).argmax(dim=1)
    assert {(int(p) // 8, int(p) % 8) for p in places} == {(3, 4), (5, 4), (4, 3), (4, 5)}
    still = digits.shift(images, torch.Generator().manual_seed(0), chance=0.0)
    assert torch.equal(still, images)
