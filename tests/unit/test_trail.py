"""What a trail notes of batches that several calls share."""

from __future__ import annotations

from dataclasses import dataclass

from services.runtime.trail import Trail, note


@dataclass
class Row:
    trail: Trail | None


def test_each_call_learns_its_own_rows_and_those_of_others_once_per_batch():
    mine, theirs = Trail(0.0, keep_steps=1), Trail(0.0)
    batch = [Row(mine), Row(mine), Row(theirs), Row(None)]
    note(batch, [2, 1, 4, 8], "step", 1.0, 1.5)
    note(batch[:1], [2], "step", 3.0, 3.25)
    stretch = mine.stretches["step"]
    assert (stretch.began, stretch.ended, stretch.busy) == (1.0, 3.25, 0.75)
    assert (stretch.evaluations, stretch.rows) == (2, 5)
    assert (stretch.most_rows, stretch.most_mates) == (15, 12)
    assert [(step.rows, step.mates) for step in mine.steps] == [(3, 12)]
    assert theirs.stretches["step"].most_mates == 11
    assert not theirs.steps


def test_stages_are_apart():
    trail = Trail(0.0)
    for stage in ("prepare", "step", "step", "decode"):
        note([Row(trail)], [1], stage, 0.0, 1.0)
    assert {name: s.evaluations for name, s in trail.stretches.items()} == {
        "prepare": 1,
        "step": 2,
        "decode": 1,
    }


def test_a_batch_without_trails_costs_nothing():
    note([Row(None)], [1], "step", 0.0, 1.0)
