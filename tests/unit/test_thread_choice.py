"""Threads of a network: never more than allowed, no more than pay, never seen in an image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_store.addition import add_model
from model_store.networks import export_choice, export_loading, thread_choice
from model_store.networks.measurements import Measurements
from model_store.networks.opening import open_model
from model_store.networks.thread_choice import Trial, try_threads
from model_store.store import Store
from services.core.cores import bound_cores, usable_cores
from services.serving.local import cores, threads_of
from services.serving.settings import Pool
from tests.engines import CPU
from tests.unit.tiny_networks import write_model


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")).write_text(text)
    return folder


def own(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "own"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_process_may_use_what_it_is_bound_to(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("nonsense", None)],
)
def test_a_control_group_limits_it(tmp_path: Path, quota: str, expected: int | None) -> None:
    group(tmp_path / "a" / "b", cpu_max="max 100000")
    group(tmp_path / "a", cpu_max=quota)
    found = usable_cores(own(tmp_path, "0::/a/b"), tmp_path)
    assert found == (expected or len(bound_cores()))


def test_a_control_group_of_the_first_version_limits_it(tmp_path: Path) -> None:
    group(tmp_path / "cpu,cpuacct", cpu_cfs_quota_us="100000", cpu_cfs_period_us="100000")
    lines = ["4:memory:/x", "3:cpu,cpuacct:/not/mounted/here", "0::/"]
    assert usable_cores(own(tmp_path, *lines), tmp_path) == 1
    group(tmp_path / "cpu,cpuacct", cpu_cfs_quota_us="-1")
    assert usable_cores(own(tmp_path, *lines), tmp_path) == len(bound_cores())


def test_a_pool_never_gets_more_threads_than_the_process_has_cores() -> None:
    assert threads_of(Pool(name="a", threads=4096)) == cores()
    assert threads_of(Pool(name="a")) == cores()
    assert threads_of(Pool(name="a", threads=1)) == 1


class Clock:
    """Time that passes when a network says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now


class Paced:
    """A network that takes as long as it is told; ``bits`` are what it answers."""

    def __init__(self, seconds: float, bits: float = 1.0) -> None:
        self.seconds, self.bits = seconds, bits
        self.clock = Clock()

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.clock.now += self.seconds
        return {"image": inputs["z"] * self.bits}

    def random_rows(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        return {"z": torch.ones(count, 2) + seed}


def tried(monkeypatch: pytest.MonkeyPatch, by_threads: dict[int, Paced], most: int) -> Trial:
    clock = Clock()
    monkeypatch.setattr(thread_choice, "time", clock)
    for network in by_threads.values():
        network.clock = clock
    return try_threads(by_threads.__getitem__, most)


def test_threads_that_do_not_pay_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {8: Paced(0.03), 4: Paced(0.02), 2: Paced(0.01), 1: Paced(0.04)}
    trial = tried(monkeypatch, paces, 8)
    assert trial.best == 2
    assert set(trial.seconds) == {8, 4, 2, 1}


def test_threads_that_pay_are_taken_and_the_search_ends_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = tried(monkeypatch, {4: Paced(0.01), 2: Paced(0.04)}, 4)
    assert trial.best == 4


def test_a_number_of_threads_that_changes_a_bit_is_never_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = tried(monkeypatch, {2: Paced(0.02), 1: Paced(0.0, bits=1.0000001)}, 2)
    assert trial.best == 2


def choice(store: Store, measured: Measurements, threads: int) -> None:
    open_model(store, "my-gan", CPU, threads=threads, measurements=measured)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_trial_is_remembered_unless_the_machine_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    store = Store(tmp_path / "store", catalogs=())
    add_model(store, write_model(tmp_path / "gan"), threads=1)
    path = tmp_path / "measurements.json"
    measured = Measurements(path, CPU, 2)
    trials: list[int] = []
    chosen: list[int] = []

    def counted(open_with: Callable[[int], Any], most: int) -> Trial:
        trials.append(most)
        found = try_threads(open_with, most)
        return Trial({**dict.fromkeys(found.seconds, 1.0), 2: 1.0, 1: 0.5}, quiet=quiet)

    def graph(*given: Any, threads: int, **named: Any) -> Any:
        chosen.append(threads)
        return opened_graph(*given, threads=threads, **named)

    opened_graph = export_loading.OnnxGraph
    monkeypatch.setattr(export_loading, "OnnxGraph", graph)
    monkeypatch.setattr(export_choice, "try_threads", counted)
    choice(store, measured, 2)
    assert chosen[-1] == 1
    choice(store, measured, 2)
    assert chosen[-1] == 1
    assert trials == ([2] if quiet else [2, 2])
    entries = json.loads(path.read_text())["entries"].values()
    known = {entry["where"]["what"]: entry for entry in entries}
    assert ("threads" in known) == quiet
    assert known["rows"]["where"]["threads"] == "1"


def test_with_one_thread_there_is_nothing_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", catalogs=())
    add_model(store, write_model(tmp_path / "gan"), threads=1)

    def never(*_: Any) -> Trial:
        raise AssertionError("a trial was begun")

    monkeypatch.setattr(export_choice, "try_threads", never)
    choice(store, Measurements(None, CPU, 1), 1)


def test_others_at_work_are_seen() -> None:
    others = thread_choice._Others()
    if others._began is None:
        pytest.skip("this system does not say what its cores do")
    others._began -= 1000.0  # as if they had worked that long meanwhile, and not for us
    assert others.share() == 1.0
